// What comes out: mask, heatmaps and poses over the key crop, with and without each source, and how far joints are off.

// The grey tiles of a person's maps: sources down, joints across, then a row that begins with the mask. Decoding a
// picture takes a moment; `sheets` keeps those that are ready.
const sheets = new Map();

function withSheet(person, draw) {
  if (sheets.has(person.row)) return draw(sheets.get(person.row));
  const image = new Image();
  image.onload = () => {
    const canvas = make("canvas", { width: image.width, height: image.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const grey = context.getImageData(0, 0, image.width, image.height);
    sheets.set(person.row, {
      tile(row, column) {
        const out = new Float32Array(height * width);
        for (let y = 0; y < height; y++) {
          for (let x = 0; x < width; x++) {
            out[y * width + x] = grey.data[4 * ((row * height + y) * image.width + column * width + x)] / 255;
          }
        }
        return out;
      },
    });
    draw(sheets.get(person.row));
  };
  image.src = person.sheet;
}

// A source's heatmap of one joint, or at every place the largest of all joints.
function heatmap(sheet, source, joint) {
  if (joint >= 0) return sheet.tile(source, joint);
  const most = new Float32Array(height * width);
  for (let j = 0; j < data.joints.length; j++) {
    sheet.tile(source, j).forEach((value, at) => { if (value > most[at]) most[at] = value; });
  }
  return most;
}

// Values 0..1 as a colour of growing opacity.
function paint(canvas, values, top, [red, green, blue], opacity) {
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  values.forEach((value, at) => {
    image.data.set([red, green, blue, 255 * opacity * Math.min(1, value / top)], 4 * at);
  });
  context.putImageData(image, 0, 0);
}

function skeleton(person, source) {
  const pose = person.poses[source], errors = person.errors[source], tall = (100 * height) / width;
  const at = (joint) => [100 * joint[0], tall * joint[1]];
  const svg = make("svg", { viewBox: "0 0 100 " + tall, "aria-hidden": "true" });
  const faint = (joint) => (state.joint >= 0 && state.joint !== joint ? " inspector-faint" : "");
  for (const [a, b] of data.limbs) {
    const [[x1, y1], [x2, y2]] = [at(pose[a]), at(pose[b])];
    svg.append(make("line", { x1, y1, x2, y2, class: "inspector-bone" + (state.joint >= 0 ? " inspector-faint" : "") }));
  }
  pose.forEach((joint, j) => {
    const [x, y] = at(joint), error = errors[j];
    const wrong = isWrong(person, error), judged = error !== null && person.size !== null;
    const group = make("g", { class: faint(j).trim() || null });
    if (judged && (wrong || state.joint === j)) {
      const [tx, ty] = at(person.truth[j]);
      group.append(make("line", { x1: x, y1: y, x2: tx, y2: ty, class: "inspector-miss" }));
      group.append(cross(tx, ty));
    }
    const kind = !judged ? "" : wrong ? " inspector-wrong" : " inspector-right";
    group.append(make("circle", { cx: x, cy: y, r: state.joint === j ? 3 : 2.1, class: "inspector-dot" + kind }));
    svg.append(group);
  });
  return svg;
}

function cross(x, y) {
  return make("path", { d: `M${x - 2.2} ${y}h4.4M${x} ${y - 2.2}v4.4`, class: "inspector-cross" });
}

function truthPose(person) {
  const tall = (100 * height) / width, svg = make("svg", { viewBox: "0 0 100 " + tall, "aria-hidden": "true" });
  const truth = person.truth, there = (joint) => truth[joint][2] > 0;
  for (const [a, b] of data.limbs) {
    if (!there(a) || !there(b)) continue;
    svg.append(make("line", {
      x1: 100 * truth[a][0], y1: tall * truth[a][1], x2: 100 * truth[b][0], y2: tall * truth[b][1], class: "inspector-bone",
    }));
  }
  truth.forEach(([x, y], j) => { if (there(j)) svg.append(cross(100 * x, tall * y)); });
  return svg;
}

function isWrong(person, error) {
  return error !== null && person.size !== null && error > RIGHT * person.size;
}

// A picture with what lies on it, its title, numbers, and what it is.
function outcome(title, about, stack, ...numbers) {
  const layers = make("div", { class: "inspector-stack" }, ...stack);
  return make("li", {}, layers, make("b", {}, title), ...numbers, make("span", { class: "muted" }, about));
}

function showOutcomes(person) {
  const key = () => picture(String(person.row), "");
  const annotated = person.truth.some((joint) => joint[2] > 0);
  const tiles = [];
  if (annotated) tiles.push(outcome("Truth", "annotated joints", [key(), truthPose(person)]));
  const maskCanvas = make("canvas", { width, height });
  if (person.mask) {
    const [low, high] = person.mask;
    const tile = outcome(
      "Mask of Eq. 5",
      "1 \u2212 sigmoid(\u03c8(key)): where the aggregate is let in",
      [key(), maskCanvas],
      make("span", {}, number(low), " ", make("i", { class: "inspector-ramp inspector-mask-ramp" }), " ", number(high)),
    );
    tile.firstChild.classList.add("inspector-dim");
    tiles.push(tile);
  }
  const canvases = sourceNames.map(() => make("canvas", { width, height }));
  sourceNames.forEach((name, source) => {
    const { label, about } = data.sources[name];
    const chosen = state.joint >= 0 ? person.errors[name][state.joint] : mean(person.errors[name]);
    const wrong = isWrong(person, chosen);
    const error = chosen === null
      ? make("span", {}, "not annotated")
      : make("span", { class: wrong ? "inspector-bad" : null }, number(chosen, 1) + " px off" + (state.joint >= 0 ? "" : ", mean"));
    const peak = state.joint >= 0 ? make("span", { class: "muted" }, "heatmap peak " + number(person.poses[name][state.joint][2])) : null;
    const tile = outcome(label, about, [key(), canvases[source], state.pose ? skeleton(person, name) : null].filter(Boolean), error, peak);
    if (state.heat) tile.firstChild.classList.add("inspector-dim");
    tiles.push(tile);
  });
  fill(byId("outcomes"), ...tiles);

  withSheet(person, (sheet) => {
    if (data.people[state.person] !== person) return; // somebody else has been chosen meanwhile
    if (person.mask) paint(maskCanvas, sheet.tile(sourceNames.length, 0), 1, [104, 178, 255], 0.75);
    if (!state.heat) return;
    const maps = sourceNames.map((_, source) => heatmap(sheet, source, state.joint));
    const top = Math.max(0.004, ...maps.map((values) => values.reduce((a, b) => Math.max(a, b), 0)));
    maps.forEach((values, source) => paint(canvases[source], values, top, [255, 176, 32], 0.95));
  });

  const swatch = (colour, text) => make("span", {}, make("i", { class: "inspector-swatch", style: "background: " + colour }), text);
  fill(
    byId("legend"),
    ...(annotated && person.size !== null
      ? [
          swatch("#41d98d", "within 10 % of the person's size (" + number(RIGHT * person.size, 1) + " px)"),
          swatch("#ff5447", "farther off"),
          swatch("#ffffff", "not annotated"),
          make("span", {}, make("b", { style: "color: #b58f00" }, "+"), "truth"),
        ]
      : []),
    swatch("#ffb020", "heatmap, as bright as the highest of the sources"),
    person.mask ? swatch("#68b2ff", "mask, from its lowest to its highest value") : null,
  );
}

function showErrors(person) {
  if (!person.truth.some((joint) => joint[2] > 0)) return fill(byId("errors"));
  const cell = (value, wrong = isWrong(person, value)) =>
    make("td", { class: "number" + (wrong ? " inspector-off" : "") }, value === null ? "\u2013" : number(value, 1));
  const rows = data.joints.map((name, j) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => { state.joint = state.joint === j ? -1 : j; byId("joint").value = state.joint; show(); });
    const cells = sourceNames.map((source) => cell(person.errors[source][j]));
    return make("tr", { "aria-current": state.joint === j ? "true" : null }, make("th", { scope: "row" }, button), ...cells);
  });
  rows.push(make("tr", {}, make("th", { scope: "row" }, make("b", {}, "mean")), ...sourceNames.map((source) => cell(mean(person.errors[source]), false))));
  const head = make("tr", {}, make("th", { scope: "col" }, "joint"), ...sourceNames.map((source) =>
    make("th", { scope: "col", class: "number" }, data.sources[source].label)));
  fill(byId("errors"), make("div", { class: "scroll" }, make(
    "table",
    {},
    make("caption", {}, "How far each joint is off, px of the frame. A joint's name shows its heatmaps."),
    make("thead", {}, head),
    make("tbody", {}, ...rows),
  )));
}

function setUpOutcomes() {
  const joint = byId("joint");
  byId("outcomes-about").textContent = data.about.outcomes;
  joint.append(option("-1", "all joints (the largest)"), ...data.joints.map((name, j) => option(String(j), name)));
  joint.addEventListener("change", () => { state.joint = Number(joint.value); show(); });
  for (const name of ["heat", "pose"]) {
    byId(name).addEventListener("change", () => { state[name] = byId(name).checked; show(); });
  }
}
