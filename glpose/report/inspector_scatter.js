// The map of embeddings: every proposal a point, those of other videos faint, references tied to the chosen person.

const COLOURS = {
  person: { label: "person", known: () => points.person.some((person) => person >= 0) },
  video: { label: "video", known: () => points.videos.length > 1 },
  action: { label: "action", known: () => points.action.some(Boolean) },
  error: { label: "error of GLPose", known: () => points.error.some((error) => error !== null) },
  gain: { label: "gain over " + BASELINE, known: () => points.gain.some((gain) => gain !== null) },
};
const actions = [...new Set(points.action)].filter(Boolean).sort();
const sorted = points.error.filter((error) => error !== null).sort((a, b) => a - b);
const WORST = sorted[Math.floor(0.9 * sorted.length)] || 1; // of the person's size: the worst tenth has one colour
const HUE = 222.492; // degrees between one colour and the next: the golden ratio of a circle

const hue = (place) => `hsl(${((place * HUE) % 360).toFixed(0)} 62% 50%)`;
const evenHue = (place, count) => `hsl(${((360 * place) / count).toFixed(0)} 62% 50%)`;
const between = (share) => `color-mix(in oklab, var(--bad) ${(100 * Math.min(1, Math.max(0, share))).toFixed(0)}%, var(--good))`;

function colourOf(place) {
  const by = byId("colour").value;
  if (by === "person") return points.person[place] < 0 ? "var(--muted)" : hue(points.person[place] + 7 * points.video[place]);
  if (by === "video") return evenHue(points.video[place], points.videos.length);
  if (by === "action") return points.action[place] ? evenHue(actions.indexOf(points.action[place]), actions.length) : "var(--muted)";
  const value = points[by][place];
  if (value === null) return "var(--muted)";
  return by === "error" ? between(value / WORST) : between(0.5 - value / WORST);
}

// Data to the square that is drawn: one scale for both axes, so that distances are what they look like.
const extent = (values) => [Math.min(...values), Math.max(...values)];
const [left, right] = extent(points.x), [bottom, top_] = extent(points.y);
const scale = Math.min(590 / (right - left || 1), 380 / (top_ - bottom || 1));
const px = (place) => 320 + (points.x[place] - (left + right) / 2) * scale;
const py = (place) => 215 - (points.y[place] - (bottom + top_) / 2) * scale;

const spots = points.row.map((row, place) => {
  const spot = make("circle", { cx: px(place).toFixed(1), cy: py(place).toFixed(1), r: 4, "data-place": place },
    make("title", {}, nameOf(place) + " of " + points.videos[points.video[place]]));
  return spot;
});
const links = make("g");

function setUpMap() {
  const colour = byId("colour");
  for (const [name, { label, known }] of Object.entries(COLOURS)) if (known()) colour.append(option(name, label));
  colour.addEventListener("change", colourMap); // which draws colours and their legend
  const svg = byId("scatter");
  // those that can be chosen lie on top
  const order = points.row.map((_, place) => place).sort((a, b) => personOf.has(points.row[a]) - personOf.has(points.row[b]));
  svg.append(links, ...order.map((place) => spots[place]));
  svg.append(make("text", { x: 630, y: 432, "text-anchor": "end" }, "component 1 \u2192"));
  svg.append(make("text", { x: 12, y: 20 }, "\u2191 component 2"));
  svg.addEventListener("click", (event) => {
    const spot = event.target.closest("circle");
    if (!spot) return;
    const place = Number(spot.dataset.place), person = personOf.get(points.row[place]);
    if (person !== undefined) choose(person);
    showPoint(place);
  });
  const [first, second] = points.shares;
  byId("map-about").textContent = "Pooled features of " + (points.row.length < points.of ? points.row.length + " of " : "all ")
    + points.of + " people of the eval split, along the two directions in which they differ most ("
    + number(100 * first, 0) + " % and " + number(100 * second, 0) + " % of the variance). Near points are similar; lines go "
    + "from this person to the references, as thick as they weigh. Ringed points can be chosen; points of other videos are faint.";
}

function colourMap() {
  spots.forEach((spot, place) => { spot.style.fill = colourOf(place); });
  const by = byId("colour").value, ramp = `linear-gradient(90deg, ${between(0)}, ${between(0.5)}, ${between(1)})`;
  const scaled = (from, to) => [from, make("i", { class: "inspector-ramp", style: "background: " + ramp }), to];
  const swatch = (text, place, count) => make("span", {},
    make("i", { class: "inspector-swatch", style: "background: " + evenHue(place, count) }), text);
  const legend = {
    person: () => peopleHere().map((place) => make("span", {},
      make("i", { class: "inspector-swatch", style: "background: " + colourOf(place) }), "person " + points.person[place])),
    video: () => points.videos.slice(0, 12).map((name, place) => swatch(name, place, points.videos.length)),
    action: () => actions.map((name, place) => swatch(name, place, actions.length)),
    error: () => scaled("0", number(100 * WORST, 0) + " % of the person's size and more"),
    gain: () => scaled("+" + number(50 * WORST, 0) + " % of the person's size", "\u2212" + number(50 * WORST, 0) + " %"),
  };
  fill(byId("colours"), ...(legend[by] ? legend[by]() : []));
}

// One point of each person of the video that is looked at, by number.
function peopleHere() {
  const video = videoOf(data.people[state.person]), found = new Map();
  points.person.forEach((person, place) => {
    if (points.video[place] === video && person >= 0 && !found.has(person)) found.set(person, place);
  });
  return [...found.keys()].sort((a, b) => a - b).slice(0, 20).map((person) => found.get(person));
}

function showMap(person) {
  colourMap();
  const here = placeOf.get(person.row), cited = new Map(person.references.map((r) => [placeOf.get(r.row), r.weight]));
  spots.forEach((spot, place) => {
    const kind = place === here ? "chosen" : cited.has(place) ? "reference" : personOf.has(points.row[place]) ? "choice" : "";
    const elsewhere = points.video[place] === points.video[here] ? "" : " inspector-elsewhere";
    spot.setAttribute("class", "inspector-spot" + (kind ? " inspector-" + kind : "") + elsewhere);
    spot.setAttribute("r", place === here ? 8 : cited.has(place) ? 6 : 4);
  });
  fill(links, ...[...cited].map(([place, weight]) => make("line", {
    x1: px(here), y1: py(here), x2: px(place), y2: py(place), class: "inspector-link",
    "stroke-width": (1 + 5 * Math.min(1, weight)).toFixed(1), "stroke-dasharray": weight < 0.01 ? "3 4" : null,
  })));
  showPoint(here);
}

function showPoint(place) {
  const facts = {
    video: points.videos[points.video[place]],
    frame: points.frame[place],
    person: points.person[place] < 0 ? null : points.person[place],
    proposal: points.proposal[place],
    action: points.action[place] || null,
    error: points.error[place] === null ? null : number(100 * points.error[place], 1) + " % of the person's size",
    gain: points.gain[place] === null ? null : signed(100 * points.gain[place], 1) + " %",
  };
  const row = points.row[place];
  fill(
    byId("point"),
    data.pictures[row] ? picture(String(row), nameOf(place)) : null,
    make("dl", {}, ...Object.entries(facts).filter(([, value]) => value !== null)
      .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))])),
    personOf.has(row) ? null : make("p", { class: "muted" }, data.pictures[row] ? "A reference; not among the people above." : "Not among the people above: no crops are kept."),
  );
}
