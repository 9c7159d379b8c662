"use strict";
// The page: its data, what is chosen on it, and everything that follows the choice.
(() => {
  const { plot, redraw, saveCsv } = Report;
  const { short } = Figures;
  const { groups, metrics, table: TABLE } = JSON.parse(document.getElementById("data").textContent);
  // What stands out: a variant's label, or a row of a group, or nothing.
  const chosen = { label: null, group: null, run: null };
  const followers = [];
  const MANY = 200; // of more runs, intervals hide each other and take long to draw: off at first

  function choose({ label = null, group = null, run = null }) {
    Object.assign(chosen, { label, group, run });
    for (const follow of followers) follow();
    redraw();
  }

  function figures(group) {
    for (const view of group.views) {
      const id = `${group.id}-${view.id}-plot`;
      const state = { bars: group.runs.name.length <= MANY, surfaces: false, log: { xaxis: view.logarithmic === "x", yaxis: false } };
      const now = () => ({ ...state, label: chosen.label, run: chosen.group === group ? chosen.run : null });
      const controls = document.querySelector(`.controls[data-view="${CSS.escape(id)}"]`);
      controls.querySelector("[data-bars]").checked = state.bars;
      controls.addEventListener("change", ({ target }) => {
        if (target.dataset.axis) state.log[target.dataset.axis] = target.checked;
        if ("bars" in target.dataset) state.bars = target.checked;
        if ("surfaces" in target.dataset) state.surfaces = target.checked;
        redraw(id);
      });
      controls.querySelector("[data-figure-csv]").addEventListener("click", () =>
        saveCsv(`${view.id}.csv`, Figures.scatterCsv(group, view)));
      controls.querySelector("[data-surfaces-csv]")?.addEventListener("click", () =>
        saveCsv(`${view.id}-attainment.csv`, Figures.surfacesCsv(view)));
      plot(id, () => Figures.scatter(group, view, now()), (row) => {
        if (row !== undefined) openRun(group, row);
      });
    }
  }

  function runsTable(group) {
    const { runs } = group;
    const keys = TABLE.filter((key) => key in runs.metrics);
    const element = document.getElementById(`${group.id}-runs-table`);
    const controls = document.querySelector(`.controls[data-runs="${group.id}"]`);
    const [find, all] = ["find", "all"].map((name) => controls.querySelector(`[data-${name}]`));
    const count = element.closest("section").querySelector("[data-count]");
    const columns = [
      { title: "run", values: runs.name },
      { title: "variant", values: runs.label },
      { title: "coefficient", values: runs.coefficient, numeric: true },
      { title: "seed", values: runs.seed, numeric: true },
      { title: "on frontier", values: runs.on_frontier.map((on) => (on ? "yes" : "")) },
      { title: "P(on)", values: runs.membership, numeric: true },
      ...keys.map((key) => ({ title: metrics[key].title, values: runs.metrics[key].value, numeric: true, about: metrics[key].unit })),
    ];
    const sort = { column: 1, down: false };
    let limit = 200;

    function update() {
      const wanted = find.value.toLowerCase();
      const rows = Tables.sorted([...runs.name.keys()].filter((row) =>
        `${runs.name[row]}\n${runs.label[row]}`.toLowerCase().includes(wanted)
        && (chosen.label === null || runs.label[row] === chosen.label)), columns[sort.column].values, sort.down);
      Tables.body(element, rows.slice(0, limit).map((row) => columns.map(({ values, numeric }, i) => ({
        text: numeric ? short(values[row]) : values[row],
        numeric,
        value: values[row],
        ...(i === 0 ? { heading: true, onClick: () => openRun(group, row) } : {}),
        ...(i === 1 ? { swatch: group.styles[values[row]][0] } : {}),
      }))));
      count.textContent = `${Math.min(limit, rows.length)} of ${rows.length} runs`;
      all.hidden = rows.length <= limit;
    }

    Tables.head(element, columns, sort, update);
    find.addEventListener("input", update);
    all.addEventListener("click", () => { limit = Infinity; update(); });
    controls.querySelector("[data-runs-csv]").addEventListener("click", () => {
      const every = Object.keys(runs.metrics);
      saveCsv("runs.csv", [
        ["run", "variant", "coefficient", "seed", "on_frontier", "membership", "format", "checkpoint", "result",
          ...every.flatMap((key) => [key, `${key}_low`, `${key}_high`])],
        ...runs.name.map((name, row) => [
          name, runs.label[row], runs.coefficient[row], runs.seed[row], runs.on_frontier[row], runs.membership[row],
          runs.format[row], runs.path[row], runs.fingerprint[row],
          ...every.flatMap((key) => ["value", "low", "high"].map((part) => runs.metrics[key][part][row])),
        ]),
      ]);
    });
    followers.push(update);
    update();
  }

  const panel = document.getElementById("details");
  let opener = null;

  function openRun(group, row) {
    const { runs } = group;
    if (panel.hidden) opener = document.activeElement;
    choose({ group, run: row });
    document.getElementById("details-title").textContent = runs.name[row];
    const facts = document.createElement("dl");
    facts.className = "facts";
    const fact = (name, value) => {
      const [term, text] = ["dt", "dd"].map((kind) => document.createElement(kind));
      term.textContent = name;
      text.textContent = value;
      facts.append(term, text);
    };
    fact("variant", runs.label[row]);
    for (const name of ["coefficient", "seed"]) if (runs[name][row] !== null) fact(name, runs[name][row]);
    fact("on the frontier", runs.on_frontier[row] ? "yes" : "no");
    if (runs.membership[row] !== null) fact("in resamplings", `${short(100 * runs.membership[row])} %`);
    for (const [key, { value, low, high }] of Object.entries(runs.metrics)) {
      if (value[row] === null) continue;
      const interval = low[row] === null ? "" : ` [${short(low[row])}, ${short(high[row])}]`;
      fact(metrics[key].title, `${short(value[row])}${interval}${metrics[key].unit ? ` ${metrics[key].unit}` : ""}`);
    }
    fact("format", runs.format[row]);
    fact("checkpoint", runs.path[row]);
    fact("result", runs.fingerprint[row]);
    document.getElementById("details-body").replaceChildren(facts);
    panel.hidden = false;
    document.getElementById("details-title").focus({ preventScroll: true });
  }

  function closeRun() {
    panel.hidden = true;
    opener?.focus({ preventScroll: true });
    choose({});
  }

  function variantButtons() {
    const all = Object.assign({}, ...groups.map((group) => group.styles));
    const clear = document.getElementById("clear");
    const buttons = Object.entries(all).map(([label, [colour]]) => {
      const button = document.createElement("button");
      button.type = "button";
      const mark = document.createElement("span");
      mark.className = "swatch";
      mark.style.background = colour;
      button.append(mark, label);
      button.addEventListener("click", () => choose({ label: chosen.label === label ? null : label }));
      return [label, button];
    });
    document.getElementById("variants").replaceChildren(...buttons.map(([, button]) => button));
    clear.addEventListener("click", () => (panel.hidden ? choose({}) : closeRun()));
    const follow = () => {
      const standing = chosen.run === null ? chosen.label : chosen.group.runs.label[chosen.run];
      for (const [label, button] of buttons) button.setAttribute("aria-pressed", label === chosen.label);
      for (const row of document.querySelectorAll("tr[data-label]")) {
        row.classList.toggle("chosen", row.dataset.label === standing);
      }
      clear.hidden = standing === null;
    };
    followers.push(follow);
    follow();
  }

  variantButtons();
  for (const group of groups) {
    figures(group);
    runsTable(group);
    for (const view of Features.views) {
      const follow = view(group);
      followers.push(() => {
        if (chosen.label !== null || chosen.group === group) follow({ label: chosen.label, run: chosen.run });
      });
    }
  }
  document.getElementById("details-close").addEventListener("click", closeRun);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) closeRun();
  });
  document.getElementById("theme").addEventListener("change", ({ target }) => {
    if (target.value) document.documentElement.dataset.theme = target.value;
    else delete document.documentElement.dataset.theme;
    redraw();
  });
})();
