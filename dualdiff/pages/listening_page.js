"use strict";
// The listening page: filters, one player at a time, and blind comparisons whose scores stay in this page.
(() => {
  const find = (id) => document.getElementById(id);
  const list = find("clips");
  const cards = [...list.querySelectorAll(".clip")];
  const gamesOf = (card) => JSON.parse(card.dataset.games);
  const byText = (a, b) => a.localeCompare(b, undefined, { numeric: true });
  const distinct = (values) => [...new Set(values)].filter((value) => value !== "").sort(byText);

  const offer = (select, values) => {
    for (const value of values) select.add(new Option(value, value));
    return values.length;
  };

  // --- filters

  const filters = { game: find("game"), seed: find("seed"), model: find("model") };
  const flagged = find("flagged"), order = find("order");
  const choices = {
    game: offer(filters.game, distinct(cards.flatMap(gamesOf))),
    seed: offer(filters.seed, distinct(cards.map((card) => card.dataset.seed))),
    model: offer(filters.model, distinct(cards.map((card) => card.dataset.model))),
  };
  for (const [name, count] of Object.entries(choices)) filters[name].parentElement.hidden = count < 2;
  find("flagged-label").hidden = !cards.some((card) => card.dataset.flagged);

  const passes = (card) =>
    (!filters.game.value || gamesOf(card).includes(filters.game.value)) &&
    (!filters.seed.value || card.dataset.seed === filters.seed.value) &&
    (!filters.model.value || card.dataset.model === filters.model.value) &&
    (!flagged.checked || card.dataset.flagged === "yes");

  const filter = () => {
    let left = 0;
    for (const card of cards) {
      card.hidden = !passes(card);
      if (card.hidden) card.querySelector("audio").pause();
      else left += 1;
    }
    find("count").value = `${left} of ${cards.length} clips`;
    find("none").hidden = left > 0;
  };

  const sort = () => {
    const key = (card) => card.dataset[order.value] || "~";
    list.append(...cards.sort((a, b) => byText(key(a), key(b)) || byText(a.dataset.name, b.dataset.name)));
  };

  find("filters").hidden = cards.length < 2;
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("filters").addEventListener("change", () => { sort(); filter(); });
  filter();

  // --- one player at a time

  document.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  }, true);

  // --- blind comparison

  const STORE = `dualdiff-listening-${list.dataset.page}`;
  const models = distinct(cards.map((card) => card.dataset.model));
  let answers = [];
  let queue = [], total = 0, current = null;

  const remember = () => { try { localStorage.setItem(STORE, JSON.stringify(answers)); } catch { /* only in memory */ } };
  const isAnswer = (own) => own && ["request", "one", "other", "better"].every((key) => typeof own[key] === "string");
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) || "[]");
    answers = Array.isArray(kept) ? kept.filter(isAnswer) : [];
  } catch { /* a page from a disk may have no store */ }

  const pairsOf = (one, other) => {
    const asked = (model) => new Map(cards.filter((card) => card.dataset.model === model).map((card) => [card.dataset.request, card]));
    const left = asked(one), right = asked(other);
    return one === other ? [] : [...left.keys()].filter((key) => right.has(key)).map((key) => [left.get(key), right.get(key)]);
  };

  const random = (below) => crypto.getRandomValues(new Uint32Array(1))[0] % below;
  const shuffled = (items) => {
    const mixed = [...items];
    for (let last = mixed.length - 1; last > 0; last -= 1) {
      const other = random(last + 1);
      [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
    }
    return mixed;
  };

  const next = () => {
    current = queue.pop() || null;
    find("trial").hidden = current === null;
    if (current === null) {
      find("told").value = total ? "All pairs are heard." : "";
      return;
    }
    const [x, y] = random(2) ? current : [current[1], current[0]];
    current = { x, y };
    find("progress").textContent = `pair ${total - queue.length} of ${total}: ${x.querySelector("h3").textContent}, seed ${x.dataset.seed}`;
    find("x").src = x.querySelector("audio").src;
    find("y").src = y.querySelector("audio").src;
  };

  const tell = () => {
    const count = pairsOf(find("one").value, find("other").value).length;
    find("pairs").value = `${count} ${count === 1 ? "pair" : "pairs"}`;
    find("start").disabled = count === 0;
  };

  // How often a fair coin is at least as uneven, both ways.
  const signTest = (a, b) => {
    const n = a + b, most = Math.max(a, b);
    let term = Math.pow(0.5, n), sum = 0;
    for (let k = 0; k <= n; k += 1) {
      if (k >= most || k <= n - most) sum += term;
      term *= (n - k) / (k + 1);
    }
    return Math.min(1, sum);
  };

  const scores = () => {
    const tallies = new Map();
    for (const { one, other, better } of answers) {
      const [a, b] = [one, other].sort(byText);
      const own = tallies.get(`${a} ${b}`) || { a, b, wins: 0, losses: 0, same: 0 };
      if (better === "same") own.same += 1;
      else if (better === a) own.wins += 1;
      else own.losses += 1;
      tallies.set(`${a} ${b}`, own);
    }
    return [...tallies.values()];
  };

  const show = () => {
    const box = find("scores");
    if (box.hidden) return;
    const head = ["models", "first better", "second better", "no difference", "chance of such a score if equal"];
    const table = document.createElement("table");
    const row = (cells, tag) => {
      const line = table.insertRow();
      for (const text of cells) line.append(Object.assign(document.createElement(tag), { textContent: text }));
    };
    row(head, "th");
    for (const own of scores()) row([`${own.a} and ${own.b}`, own.wins, own.losses, own.same, signTest(own.wins, own.losses).toPrecision(2)], "td");
    box.replaceChildren(answers.length ? table : document.createTextNode("no comparison yet"));
  };

  const asJson = () => JSON.stringify({ page: list.dataset.page, scores: scores(), answers }, null, 1);
  const changed = () => {
    remember();
    find("save").href = `data:application/json;charset=utf-8,${encodeURIComponent(asJson())}`;
    show();
  };

  const answer = (which) => {
    if (current === null) return;
    const better = which === "same" ? "same" : current[which].dataset.model;
    answers.push({ request: current.x.dataset.request, one: current.x.dataset.model, other: current.y.dataset.model, better });
    for (const id of ["x", "y"]) find(id).pause();
    changed();
    next();
  };

  const start = () => {
    queue = shuffled(pairsOf(find("one").value, find("other").value));
    total = queue.length;
    find("told").value = "";
    find("scores").hidden = true;
    next();
  };

  const copy = async () => {
    try {
      await navigator.clipboard.writeText(asJson());
      find("told").value = "copied";
    } catch {
      find("told").value = "this browser does not let a page copy: use save";
    }
  };

  if (models.some((one) => models.some((other) => pairsOf(one, other).length))) {
    offer(find("one"), models);
    offer(find("other"), models);
    find("other").selectedIndex = 1;
    find("compare").hidden = false;
    find("one").addEventListener("change", tell);
    find("other").addEventListener("change", tell);
    find("start").addEventListener("click", start);
    for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
    find("reveal").addEventListener("click", () => { find("scores").hidden = !find("scores").hidden; show(); });
    find("copy").addEventListener("click", copy);
    find("forget").addEventListener("click", () => { answers = []; changed(); });
    tell();
    changed();
  }
})();
