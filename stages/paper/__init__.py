"""The paper's tables on DensePASS: checks data and weights, then runs the suites."""
