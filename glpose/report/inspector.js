// The retrieval inspector. Its data is what inspector_data.py writes; all of its text is set as text, never as
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

// Called when all parts of the script are there.
function start() {
  document.documentElement.style.setProperty("--inspector-aspect", width + " / " + height);
  byId("app").hidden = false;
  setUpChoice();
  setUpOutcomes();
  setUpMap();
  show();
}
