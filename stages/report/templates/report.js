/* The page's behaviour: sorting and comparing rows, pictures with layers, the panorama viewer, themes, copying. */
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const rows = new Map(data.tables.flatMap((table) => table.rows).map((row) => [row.id, row]));
  const figures = new Map(data.tables.flatMap((table) => table.figures).map((figure) => [figure.name, figure]));

  /** Creates an element with text; text is never read as HTML. */
  function element(tag, text = "", className = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  const signed = (value, digits) => {
    const size = Math.abs(value).toFixed(digits);
    return (Number(size) === 0 ? "" : value < 0 ? "−" : "+") + size;
  };
  const side = (difference, better) => {
    const direction = Math.sign(difference) * better;
    return direction > 0 ? "better" : direction < 0 ? "worse" : "";
  };

  /* ---- what the reader chose before */

  function remember(select, name, apply) {
    try { select.value = localStorage.getItem(name) || select.value; } catch { /* storage is off */ }
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.addEventListener("change", () => {
      try { localStorage.setItem(name, select.value); } catch { /* storage is off */ }
      apply(select.value);
    });
    apply(select.value);
  }

  /* ---- tables */

  function sortBy(header) {
    const table = header.closest("table");
    const index = [...header.parentNode.children].indexOf(header);
    const isNumber = header.classList.contains("num");
    const before = header.getAttribute("aria-sort");
    const firstOrder = isNumber && Number(header.dataset.better) >= 0 ? "descending" : "ascending";
    const order = before === "none" ? firstOrder : before === "ascending" ? "descending" : "ascending";
    for (const other of header.parentNode.children) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const value = (row) => {
        // a published row has one cell for all settings
        const cell = row.cells[index - (table.rows[1].cells.length - row.cells.length)] || row.cells[0];
        return cell.dataset.value;
      };
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (isNumber ? x - y : x.localeCompare(y, undefined, { numeric: true }));
      };
      body.append(...[...body.rows].sort(compare));
    }
  }

  function showDifferences(box, chosen) {
    const reference = rows.get(chosen);
    for (const line of all("tr[data-row]", box)) line.classList.toggle("chosen", line.dataset.row === chosen);
    for (const cell of all("td[data-figure]", box)) {
      const label = cell.querySelector(".delta"), figure = figures.get(cell.dataset.figure);
      const before = reference && reference.mean[figure.name];
      const isSame = !reference || cell.parentNode.dataset.row === chosen || before === undefined;
      const difference = isSame ? 0 : cell.dataset.value - before;
      label.textContent = isSame ? "" : signed(difference, figure.digits);
      label.className = `delta ${isSame ? "" : side(difference, figure.better)}`;
    }
    showHeat(box.id, chosen);
  }

  function showHeat(tableId, chosen) {
    const heat = document.querySelector(`.heat[data-table="${tableId}"]`);
    if (!heat) return;
    const wanted = heat.closest("section").querySelectorAll(".heat-difference")[all(".heat").indexOf(heat)].checked;
    const reference = wanted ? rows.get(chosen) : null;
    const classes = data.tables[Number(tableId.slice(1))].classes;
    heat.classList.toggle("difference", Boolean(reference));
    for (const line of heat.tBodies[0].rows) {
      [...line.cells].slice(1).forEach((cell, index) => {
        if (cell.dataset.value === undefined) return;
        const before = reference && reference.iou[classes[index]];
        const difference = cell.dataset.value - before;
        const known = reference && before !== undefined;
        cell.style.setProperty("--d", known ? Math.min(70, Math.abs(difference) * 4) : 0);
        cell.style.setProperty("--side", difference > 0 ? "var(--better)" : "var(--worse)");
        const value = Number(cell.dataset.value);
        cell.textContent = !reference ? value.toFixed(0) : known ? signed(difference, 0) : "";
      });
    }
  }

  for (const button of all(".sortable thead button")) button.addEventListener("click", () => sortBy(button.closest("th")));
  all(".table").forEach((box, index) => {
    const select = box.querySelector(".against");
    if (!select) return;
    const named = data.tables[index].rows.find((row) => row.name === data.against);
    select.value = named ? named.id : select.options.length > 2 ? select.options[1].value : "";
    select.addEventListener("change", () => showDifferences(box, select.value));
    for (const check of all(".heat-difference")) {
      check.addEventListener("change", () => showHeat(box.id, select.value));
    }
    showDifferences(box, select.value);
  });

  /* ---- two rows side by side */

  function compareRows() {
    const [a, b] = ["a", "b"].map((name) => rows.get(document.getElementById(`compare-${name}`).value));
    const place = (name) => document.getElementById(`compare-${name}`);
    const head = (...titles) => {
      const line = document.createElement("tr");
      titles.forEach((title, index) => line.append(element("th", title, index ? "num" : "")));
      return line;
    };
    const both = [...figures.values()].filter((figure) => figure.name in a.mean || figure.name in b.mean);
    place("figures").replaceChildren(head("", "A", "B", "B − A"), ...both.map((figure) => {
      const line = document.createElement("tr"), values = [a.mean[figure.name], b.mean[figure.name]];
      line.append(element("th", figure.title));
      for (const value of values) line.append(element("td", value === undefined ? "–" : value.toFixed(figure.digits), "num"));
      const difference = values[1] - values[0], known = !Number.isNaN(difference);
      const cell = element("td", "", "num");
      cell.append(element("span", known ? signed(difference, figure.digits) : "–", `delta ${known ? side(difference, figure.better) : ""}`));
      line.append(cell);
      return line;
    }));
    const classes = [...new Set([...Object.keys(a.iou), ...Object.keys(b.iou)])];
    place("classes").replaceChildren(...(classes.length ? classes.map((name) => classLine(name, a.iou[name], b.iou[name])) : [emptyLine("There are no true labels.")]));
    const names = [...new Set([...Object.keys(a.settings), ...Object.keys(b.settings)])].filter((name) => a.settings[name] !== b.settings[name]);
    const unknown = [a, b].find((row) => !Object.keys(row.settings).length);
    const lines = (unknown ? [] : names).sort().map((name) => {
      const line = document.createElement("tr");
      line.append(element("th", name), element("td", a.settings[name] ?? "–"), element("td", b.settings[name] ?? "–"));
      return line;
    });
    const titles = head("", "A", "B");
    for (const title of titles.cells) title.className = "";
    place("settings").replaceChildren(...(lines.length ? [titles, ...lines] : [emptyLine(unknown ? `The settings of ${unknown.name} are not known.` : "None.")]));
  }

  function emptyLine(text) {
    const line = document.createElement("tr");
    line.append(element("td", text, "muted"));
    return line;
  }

  function classLine(name, a, b) {
    const line = document.createElement("tr"), track = element("div", "", "track");
    if (a !== undefined && b !== undefined) {
      const bar = document.createElement("i");
      bar.style.left = `${Math.min(a, b)}%`;
      bar.style.width = `${Math.abs(a - b)}%`;
      track.append(bar);
    }
    for (const [value, kind] of [[a, "a"], [b, "b"]]) {
      if (value === undefined) continue;
      const dot = element("span", "", `dot ${kind}`);
      dot.style.left = `${value}%`;
      track.append(dot);
    }
    const middle = document.createElement("td");
    middle.style.width = "50%";
    middle.append(track);
    const text = (value) => (value === undefined ? "–" : value.toFixed(1));
    const cell = element("td", "", "num");
    const known = a !== undefined && b !== undefined;
    cell.append(element("span", known ? signed(b - a, 1) : "–", `delta ${known ? side(b - a, 1) : ""}`));
    line.append(element("th", name), element("td", text(a), "num"), middle, element("td", text(b), "num"), cell);
    return line;
  }

  function startCompare() {
    const section = document.getElementById("compare");
    if (rows.size < 2) {
      for (const link of all('[data-needs="compare"]')) link.remove();
      return;
    }
    section.hidden = false;
    const selects = ["a", "b"].map((name) => document.getElementById(`compare-${name}`));
    selects.forEach((select) => {
      for (const row of rows.values()) select.append(new Option(data.tables.length > 1 ? row.title : row.name, row.id));
      select.addEventListener("change", compareRows);
    });
    const ids = [...rows.keys()], named = [...rows.values()].find((row) => row.name === data.against);
    const measure = (row) => row.mean.mIoU ?? row.mean.expected_mIoU ?? 0;
    selects[0].value = named ? named.id : ids[0];
    const others = [...rows.values()].filter((row) => row.id !== selects[0].value);
    selects[1].value = others.reduce((best, row) => (measure(row) > measure(best) ? row : best)).id;
    compareRows();
  }
  startCompare();

  /* ---- pictures */

  const RED = [213, 94, 0], WHITE = [255, 255, 255];
  let paletteName = "palette";

  /** Returns the colour of every value of a layer, as 256 little-endian RGBA words; 0 is transparent. */
  function colourTable(layer) {
    const table = new Uint32Array(256), pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    if (layer.kind === "labels") data.spaces[layer.space][paletteName].forEach((colour, id) => { table[id] = pack(colour); });
    if (layer.kind === "masks") {
      for (let k = 1; k <= 250; k++) table[k] = pack(hue(k * 137.508));
      table[255] = pack(WHITE);
    }
    if (layer.kind === "boundary") table[1] = pack(WHITE);
    if (layer.kind === "error") { table[1] = pack(RED); table[255] = pack([70, 70, 70]); }
    if (layer.kind === "weight") for (let value = 0; value < 256; value++) table[value] = pack(ramp(value / 255));
    return table;
  }

  function hue(degrees) {
    return [0, 8, 4].map((n) => {
      const k = (n + degrees / 30) % 12;
      return Math.round(255 * (0.55 - 0.36 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    });
  }

  /* Cividis: dark blue to yellow, with rising lightness, for any colour vision. */
  const CIVIDIS = [[0, 34, 78], [48, 67, 109], [87, 92, 109], [124, 123, 120], [165, 156, 116], [210, 192, 96], [254, 232, 56]];
  function ramp(share) {
    const place = share * (CIVIDIS.length - 1), index = Math.min(CIVIDIS.length - 2, Math.floor(place));
    return CIVIDIS[index].map((value, k) => Math.round(value + (CIVIDIS[index + 1][k] - value) * (place - index)));
  }

  async function decode(layer, [height, width]) {
    if (layer.values) return layer.values;
    const image = new Image();
    image.src = `data:image/png;base64,${layer.png}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data, values = new Uint8Array(width * height);
    for (let k = 0; k < values.length; k++) values[k] = pixels[4 * k];
    layer.values = values;
    return values;
  }

  class Gallery {
    constructor(section) {
      this.section = section;
      this.find = (selector) => section.querySelector(selector);
      this.panoramas = all("script.panorama", section).map((script) => JSON.parse(script.textContent));
      this.canvas = this.find("canvas");
      this.overlay = document.createElement("canvas");
      this.radios = all(".layers input", section);
      this.thumbs = all(".thumb", section);
      this.viewer = null;
      this.drawing = 0;
      for (const thumb of this.thumbs) thumb.addEventListener("click", () => this.open(Number(thumb.dataset.panorama)));
      for (const radio of this.radios) radio.addEventListener("change", () => this.draw());
      const slider = this.find(".opacity input");
      slider.addEventListener("input", () => {
        this.find(".opacity output").textContent = `${slider.value} %`;
        this.compose();
      });
      this.find(".turn-switch").addEventListener("click", () => this.turn(this.find(".turn").hidden));
      this.canvas.addEventListener("pointermove", (event) => this.read(this.pixelOnCanvas(event)));
      this.canvas.addEventListener("pointerdown", (event) => this.read(this.pixelOnCanvas(event)));
      this.find(".turn").addEventListener("pointermove", (event) => this.read(this.pixelInViewer(event)));
      const preferred = this.radios.find((radio) => radio.value === "ensemble") || this.radios[0];
      preferred.checked = true;
      this.open(Number(this.thumbs[0].dataset.panorama));
    }

    get layer() {
      const chosen = this.radios.find((radio) => radio.checked);
      return this.panorama.layers.find((layer) => layer.id === chosen.value);
    }

    open(index) {
      this.panorama = this.panoramas[index];
      const [height, width] = this.panorama.size;
      for (const thumb of this.thumbs) thumb.setAttribute("aria-pressed", String(Number(thumb.dataset.panorama) === index));
      this.photo = this.thumbs.find((thumb) => Number(thumb.dataset.panorama) === index).querySelector("img");
      for (const radio of this.radios) {
        radio.disabled = radio.value !== "" && !this.panorama.layers.some((layer) => layer.id === radio.value);
        if (radio.disabled && radio.checked) this.radios[0].checked = true;
      }
      for (const canvas of [this.canvas, this.overlay]) [canvas.width, canvas.height] = [width, height];
      this.canvas.style.setProperty("--aspect", width / height);
      this.find(".turn-switch").hidden = this.panorama.angles === null;
      const isTurning = this.viewer !== null;
      this.draw().then(() => { if (isTurning) this.turn(this.panorama.angles !== null); });
    }

    /** Colours the chosen layer; a later call replaces an earlier one that still decodes. */
    async draw() {
      const number = ++this.drawing, layer = this.layer, context = this.overlay.getContext("2d");
      const values = layer ? await decode(layer, this.panorama.size) : null;
      await this.photo.decode();
      if (number !== this.drawing) return;
      const [height, width] = this.panorama.size;
      context.clearRect(0, 0, width, height);
      if (layer) {
        const picture = context.createImageData(width, height), table = colourTable(layer);
        const pixels = new Uint32Array(picture.data.buffer);
        for (let k = 0; k < values.length; k++) pixels[k] = table[values[k]];
        context.putImageData(picture, 0, 0);
      }
      this.describe(layer, values);
      this.compose();
    }

    compose() {
      const context = this.canvas.getContext("2d");
      context.globalAlpha = 1;
      context.drawImage(this.photo, 0, 0, this.canvas.width, this.canvas.height);
      context.globalAlpha = Number(this.find(".opacity input").value) / 100;
      if (this.layer) context.drawImage(this.overlay, 0, 0);
      if (this.viewer) this.refresh();
    }

    describe(layer, values) {
      const remark = layer ? [layer.title, layer.remark].filter(Boolean).join(": ") : "image";
      this.find(".remark").textContent = `${this.panorama.id} · ${remark}`;
      this.find(".flat").setAttribute("aria-label", `${remark} of ${this.panorama.id}`);
      const legend = this.find(".legend");
      legend.replaceChildren();
      if (!layer) return;
      const entry = (text, colour) => {
        const item = element("li"), swatch = element("span", "", "swatch");
        swatch.style.background = `rgb(${colour.join(" ")})`;
        item.append(swatch, text);
        legend.append(item);
        return item;
      };
      if (layer.kind === "labels") {
        const present = new Set(values), space = data.spaces[layer.space];
        space.classes.forEach((name, id) => entry(name, space[paletteName][id]).classList.toggle("absent", !present.has(id)));
      } else if (layer.kind === "weight") {
        const item = element("li"), bar = element("span", "", "ramp");
        bar.style.background = `linear-gradient(90deg, ${CIVIDIS.map((colour) => `rgb(${colour.join(" ")})`).join(", ")})`;
        item.append("0 %", bar, "100 %");
        legend.append(item);
      } else if (layer.kind === "error") {
        entry("wrong", RED);
        entry("not labelled", [70, 70, 70]);
      } else if (layer.kind === "boundary") entry("boundary", WHITE);
      else legend.append(element("li", "Each mask has a colour of its own; colours have no other meaning."));
    }

    pixelOnCanvas(event) {
      const box = this.canvas.getBoundingClientRect(), [height, width] = this.panorama.size;
      return [Math.floor((event.clientX - box.left) / box.width * width), Math.floor((event.clientY - box.top) / box.height * height)];
    }

    pixelInViewer(event) {
      if (!this.viewer) return null;
      const [pitch, yaw] = this.viewer.mouseEventToCoords(event), [height, width] = this.panorama.size;
      const [low, high] = this.panorama.angles;
      const column = Math.floor((yaw + 180) / 360 * width);
      return [((column % width) + width) % width, Math.floor((high - pitch) / (high - low) * height)];
    }

    /** Names what every layer says about a pixel (column, row). */
    async read(pixel) {
      const panorama = this.panorama, [height, width] = panorama.size, place = this.find(".place");
      if (!pixel || pixel[0] < 0 || pixel[1] < 0 || pixel[0] >= width || pixel[1] >= height) return;
      const named = panorama.layers.filter((layer) => layer.kind === "labels" || layer.kind === "weight");
      for (const layer of named) await decode(layer, panorama.size);
      if (panorama !== this.panorama) return;
      place.classList.remove("muted");
      place.replaceChildren(`column ${pixel[0]}, row ${pixel[1]}`);
      for (const layer of named) {
        const value = layer.values[pixel[1] * width + pixel[0]];
        const text = layer.kind === "weight" ? `${Math.round(value / 2.55)} %` : data.spaces[layer.space].classes[value] ?? "no class";
        place.append(` · ${layer.title} `, element("b", text));
      }
    }

    /** Shows the panorama from inside, or flat again. */
    turn(wanted) {
      const box = this.find(".turn"), button = this.find(".turn-switch");
      if (this.viewer) this.viewer.destroy();
      this.viewer = null;
      button.setAttribute("aria-pressed", String(wanted));
      box.hidden = !wanted;
      this.find(".flat").hidden = wanted;
      if (!wanted) return;
      box.replaceChildren();
      const [low, high] = this.panorama.angles;
      const height = Math.tan((high - low) / 2 * Math.PI / 180), aspect = box.clientWidth / box.clientHeight;
      const widest = Math.min(110, 2 * Math.atan(height * aspect * 0.98) * 180 / Math.PI);
      this.viewer = pannellum.viewer(box, {
        type: "equirectangular", panorama: this.canvas, dynamic: true, dynamicUpdate: true, autoLoad: true,
        haov: 360, vaov: high - low, vOffset: (high + low) / 2, minPitch: low, maxPitch: high, pitch: (high + low) / 2,
        hfov: Math.min(90, widest), minHfov: 20, maxHfov: widest, mouseZoom: "fullscreenonly", showFullscreenCtrl: true,
      });
      this.refresh();
    }

    /** Gives the viewer the present picture once. */
    refresh() {
      const viewer = this.viewer;
      viewer.setUpdate(true);
      setTimeout(() => { if (viewer === this.viewer) viewer.setUpdate(false); }, 120);
    }
  }

  const galleries = all(".gallery").map((section) => new Gallery(section));

  /* ---- switches, copying */

  remember(document.getElementById("theme"), "goodsam-report-theme", (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  });
  remember(document.getElementById("palette"), "goodsam-report-palette", (name) => {
    paletteName = name;
    for (const gallery of galleries) gallery.draw();
  });

  async function copy(button) {
    const source = button.parentNode.querySelector("code, pre");
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
  for (const button of all(".copy")) button.addEventListener("click", () => copy(button));

  /* A link to a row opens its details. */
  function openTarget() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
  addEventListener("hashchange", openTarget);
  openTarget();
})();
