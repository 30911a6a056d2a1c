"use strict";
(() => {
  const quiz = document.getElementById("quiz");
  const bytes = Uint8Array.from(atob(quiz.dataset.key), (c, i) => c.charCodeAt(0) ^ ((i * 73 + 41) & 255));
  const answers = JSON.parse(new TextDecoder().decode(bytes));
  const pairs = [...quiz.querySelectorAll(".pair")];
  const start = quiz.querySelector(".start"), score = quiz.querySelector(".score");
  let at = -1, given = [], open = false;

  const percent = (x) => Math.round(100 * x) + " %";
  // Wilson's score interval, 95 %; hits may be a half: guessing gets n / 2 of n.
  const wilson = (hits, n) => {
    const z = 1.959963984540054, p = hits / n, middle = (p + z * z / (2 * n)) / (1 + z * z / n);
    const half = z * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n);
    return [hits === 0 ? 0 : middle - half, hits === n ? 1 : middle + half];
  };
  const element = (tag, text, style) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (style) made.className = style;
    return made;
  };

  const show = (next) => {
    at = next;
    open = true;
    pairs.forEach((pair, i) => { pair.hidden = i !== at; });
    score.replaceChildren();
    const pair = pairs[at];
    pair.querySelector(".choose").hidden = false;
    pair.querySelector(".answer").replaceChildren();
    pair.querySelectorAll(".side").forEach((side) => side.classList.remove("is-human", "is-simulated"));
    pair.querySelector("h3").focus({ preventScroll: true });
    pair.scrollIntoView({ block: "nearest" });
  };

  const choose = (choice) => {
    if (!open) return;
    open = false;
    const [second, name] = answers[at], human = second ? 1 : 0, pair = pairs[at];
    pair.querySelector(".choose").hidden = true;
    if (choice !== null) given.push({ hit: choice === human, name });
    pair.querySelectorAll(".side").forEach((side, i) => side.classList.add(i === human ? "is-human" : "is-simulated"));
    const truth = `${"AB"[human]} is the person, ${"BA"[human]} is ${name}. `;
    const answer = pair.querySelector(".answer");
    answer.append(element("b", choice === null ? "Skipped. " : choice === human ? "Right. " : "Wrong. "), truth);
    const next = element("button", at + 1 < pairs.length ? "Next pair" : "My score");
    next.type = "button";
    next.dataset.do = "next";
    answer.append(next);
    next.focus({ preventScroll: true });
  };

  const bar = (label, hits, n, style) => {
    const [low, high] = wilson(hits, n), row = element("div", "", "line");
    const track = element("div", "", "track slim"), lane = element("span", "", "lane " + style);
    const whisker = element("i", "", "whisker"), dot = element("i", "", "dot"), half = element("i", "", "median");
    lane.style.top = "50%";
    half.style.left = "50%";
    whisker.style.left = 100 * low + "%";
    whisker.style.width = 100 * (high - low) + "%";
    dot.style.left = 100 * hits / n + "%";
    lane.append(whisker, dot);
    track.append(half, lane);
    row.append(element("span", `${label}: ${percent(hits / n)} [${percent(low)}, ${percent(high)}]`), track);
    return row;
  };

  const finish = () => {
    pairs.forEach((pair) => { pair.hidden = true; });
    at = -1;
    start.hidden = false;
    start.firstElementChild.textContent = "Play again";
    const n = given.length, hits = given.filter((one) => one.hit).length;
    if (n === 0) {
      score.replaceChildren(element("p", "Every pair was skipped: no score."));
      return;
    }
    const [low, high] = wilson(hits, n), box = element("div", "", "overview");
    const verdict = low > 0.5 ? "You can tell them apart." : high < 0.5
      ? "You take the simulated ones for people." : "This cannot be told from guessing.";
    box.append(bar(`you, ${hits} of ${n}`, hits, n, "c1"), bar(`guessing, ${n} pairs`, n / 2, n, "human"));
    const names = [...new Set(given.map((one) => one.name))];
    if (names.length > 1) {
      for (const name of names) {
        const own = given.filter((one) => one.name === name);
        box.append(bar(`you against ${name}, n ${own.length}`, own.filter((one) => one.hit).length, own.length, "c1"));
      }
    }
    const head = element("h3", `${hits} of ${n} right. ${verdict}`);
    head.tabIndex = -1;
    score.replaceChildren(head, box, element("p", "Shares with Wilson's 95 % interval; the line in the middle is one half.", "soft"));
    head.focus({ preventScroll: true });
  };

  const act = (what) => {
    if (what === "start") { given = []; start.hidden = true; show(0); }
    else if (what === "next") { if (at + 1 < pairs.length) show(at + 1); else finish(); }
    else choose(what === "skip" ? null : Number(what));
  };

  quiz.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (button) act(button.dataset.do);
  });
  quiz.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const what = { a: "0", b: "1", s: "skip" }[event.key.toLowerCase()];
    if (what !== undefined && open) { event.preventDefault(); act(what); }
  });
  pairs.forEach((pair) => { pair.hidden = true; });
  start.hidden = false;
})();
