// The retrieval inspector. Its data is what glpose/report/inspection.py writes; all of its text is set as text, never as
// HTML. `state` says what is looked at, `show` draws it anew.

const data = JSON.parse(document.getElementById("inspector-data").textContent);
const points = data.points;
const placeOf = new Map(points.row.map((row, place) => [row, place])); // row of the split -> place among the points
const personOf = new Map(data.people.map((person, place) => [person.row, place]));
const [height, width] = data.grid; // of the heatmaps
const sourceNames = Object.keys(data.sources);
const RIGHT = 0.1; // of the person's size: a joint so near is right, as for PCK@0.1
const BASELINE = data.baseline === null ? "" : data.sources[data.baseline].label;
const WHY = { gain: "Largest gains over " + BASELINE, loss: "Largest losses", even: "From all over the videos" };

const state = { list: data.people.map((_, place) => place), person: 0, joint: -1, heat: true, pose: true };

const byId = (name) => document.getElementById("inspector-" + name);

// An element with attributes and children; strings become text.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "circle", "line", "path", "text", "title", "g"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null));
}

function number(value, digits = 2) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function signed(value, digits = 0) {
  return (value > 0 ? "+" : value < 0 ? "\u2212" : "\u00b1") + number(Math.abs(value), digits);
}

// Weights span many orders: what is not 0 or 1 never reads so.
function weightText(value) {
  if (Number.isInteger(value)) return String(value);
  return value < 0.001 ? "< 0.001" : value > 0.995 && value < 1 ? "> 0.99" : number(value, value < 0.1 ? 3 : 2);
}

function picture(name, text) {
  const source = data.pictures[name];
  return source ? make("img", { src: source, alt: text }) : make("div", { class: "inspector-none" }, "no picture");
}

// Of a point: who it is, in words.
function nameOf(place) {
  const person = points.person[place];
  return (person < 0 ? "proposal " + points.proposal[place] : "person " + person) + ", frame " + points.frame[place];
}

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

// ------------------------------------------------------------------------------------------------ choosing people

function setUpChoice() {
  const filter = byId("filter");
  filter.append(make("option", { value: "all" }, "everybody (" + data.people.length + ")"));
  const reasons = Object.keys(WHY).filter((why) => data.people.some((person) => person.why === why));
  filter.append(make("optgroup", { label: "Chosen for" }, ...reasons.map((why) => option("why:" + why, WHY[why]))));
  const videos = [...new Set(data.people.map(videoOf))].sort((a, b) => a - b);
  filter.append(make("optgroup", { label: "Video" }, ...videos.map((v) => option("video:" + v, points.videos[v]))));

  filter.addEventListener("change", () => {
    const [kind, value] = filter.value.split(":");
    const every = data.people.map((_, place) => place);
    state.list = every.filter((place) => {
      if (kind === "why") return data.people[place].why === value;
      return kind === "all" || videoOf(data.people[place]) === Number(value);
    });
    listPeople();
    choose(state.list[0]);
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  for (const element of [byId("people"), byId("scatter"), byId("previous"), byId("next")]) {
    element.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      step(moves[event.key], event.currentTarget === byId("people"));
    });
  }
  byId("gains").textContent = points.gain.some((gain) => gain !== null)
    ? "Percent: how much nearer GLPose's joints are to the truth than those of " + BASELINE
      + ", in sizes of the person, on average; a minus: how much farther."
    : "These people are not annotated: nobody knows who gains.";
  listPeople();
}

function option(value, text) {
  return make("option", { value }, text);
}

function videoOf(person) {
  return points.video[placeOf.get(person.row)];
}

function step(by, focus = false) {
  const at = state.list.indexOf(state.person);
  choose(state.list[Math.min(Math.max(at + by, 0), state.list.length - 1)], focus);
}

function choose(person, focus = false) {
  state.person = person;
  if (!state.list.includes(person)) { // a point of the map that the list does not show
    byId("filter").value = "all";
    state.list = data.people.map((_, place) => place);
    listPeople();
  }
  show();
  if (focus) byId("people").querySelector("[aria-selected=true]").focus({ preventScroll: true });
}

function listPeople() {
  fill(byId("people"), ...state.list.map((place) => {
    const person = data.people[place], point = placeOf.get(person.row), gain = points.gain[point];
    const button = make(
      "button",
      { type: "button", role: "option", "data-person": place, title: points.videos[points.video[point]] + ", " + nameOf(point) },
      picture(String(person.row), ""),
      "frame " + person.frame,
      make("br"),
      gain === null
        ? "\u2013"
        : make("span", { class: gain < 0 ? "inspector-bad" : "inspector-good" }, signed(100 * gain, 1) + " %"),
    );
    button.setAttribute("aria-label", nameOf(point) + " of " + points.videos[points.video[point]]
      + (gain === null ? "" : ", " + signed(100 * gain, 1) + " percent of its size"));
    button.addEventListener("click", () => choose(place));
    return button;
  }));
}

function markChosen() {
  const list = byId("people");
  for (const button of list.children) {
    const chosen = Number(button.dataset.person) === state.person;
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    if (!chosen) continue;
    const left = button.offsetLeft - list.offsetLeft, right = left + button.offsetWidth;
    if (left < list.scrollLeft) list.scrollLeft = left - 8;
    if (right > list.scrollLeft + list.clientWidth) list.scrollLeft = right - list.clientWidth + 8;
  }
  const at = state.list.indexOf(state.person);
  byId("count").textContent = (at + 1) + " of " + state.list.length;
  byId("previous").disabled = at === 0;
  byId("next").disabled = at === state.list.length - 1;
}

// ------------------------------------------------------------------------------------------------- what goes in

function showPerson(person) {
  const place = placeOf.get(person.row);
  const named = nameOf(place);
  byId("who").textContent = named[0].toUpperCase() + named.slice(1) + " of " + points.videos[points.video[place]];
  byId("about").textContent = [
    "Proposal " + points.proposal[place],
    "box score " + number(points.score[place]),
    points.action[place] ? "action: " + points.action[place] : null,
    "chosen as one of: " + WHY[person.why].toLowerCase(),
  ].filter(Boolean).join("; ") + ".";
  fill(byId("portrait"), picture(String(person.row), "key crop"));
  fill(byId("readings"), ...person.readings.map((sentence) => make("li", {}, sentence)));
}

function weightBar(weight, full) {
  const share = Math.min(100, Math.max(weight > 0 ? 1.5 : 0, (100 * weight) / full));
  return make("div", { class: "inspector-weight" }, make("i", { style: "width: " + share + "%" }));
}

function weightLine(weight, words = "weight ") {
  return make("div", {}, words, make("b", {}, weightText(weight)));
}

function showLocal(person) {
  const full = Math.max(1, ...person.local.map((local) => local.weight));
  byId("local-about").textContent = data.about.local + " A full bar is "
    + (full === 1 ? "1, the weight of the key frame itself." : number(full, full % 1 ? 2 : 0) + "; the key frame weighs 1.");
  const tiles = person.local.map((local) => [local.offset, make(
    "li",
    { title: local.note || null },
    picture(local.picture, "frame " + local.frame),
    weightBar(local.weight, full),
    weightLine(local.weight),
    make("div", {}, "t " + signed(local.offset).replace(/^./, "$& ") + (local.note ? "" : ", frame " + local.frame)),
    local.note ? make("div", { class: "muted" }, local.note) : null,
  )]);
  tiles.push([0, make(
    "li",
    { class: "inspector-key-frame" },
    picture(String(person.row), "key frame " + person.frame),
    weightBar(1, full),
    weightLine(1),
    make("div", {}, "key, frame " + person.frame),
  )]);
  tiles.sort((a, b) => a[0] - b[0]);
  fill(byId("local"), ...tiles.map(([, tile]) => tile));
}

function showReferences(person) {
  const full = Math.max(1, ...person.references.map((reference) => reference.weight));
  const here = placeOf.get(person.row);
  byId("references-about").textContent = data.about.references;
  fill(byId("references"), ...person.references.map((reference) => {
    const there = placeOf.get(reference.row);
    const same = points.video[there] === points.video[here];
    const known = points.person[there] >= 0 && points.person[here] >= 0;
    const tile = make(
      "li",
      { class: reference.used ? null : "inspector-unused" },
      picture(String(reference.row), nameOf(there)),
      weightBar(reference.weight, full),
      reference.used ? weightLine(reference.weight) : make("div", {}, "left out by eval.n"),
      make("div", {}, "similarity " + number(reference.similarity, Math.abs(reference.similarity) < 10 ? 4 : 1)),
      make("div", {}, nameOf(there) + (same ? " (" + signed(points.frame[there] - person.frame) + ")" : "")),
      known
        ? make("div", { class: "muted" }, same && points.person[there] === points.person[here] ? "the same person" : "another person")
        : null,
      same ? null : make("div", { class: "muted" }, points.videos[points.video[there]]),
    );
    return tile;
  }));
}

// ------------------------------------------------------------------------------------------------ what comes out

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

function show() {
  const person = data.people[state.person];
  markChosen();
  showPerson(person);
  showLocal(person);
  showReferences(person);
  showOutcomes(person);
  showErrors(person);
  showMap(person);
}
