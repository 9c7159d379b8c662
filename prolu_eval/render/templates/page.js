"use strict";
// The page: its data, its parts, and the address, which stores the reader's choices.
const Page = (() => {
  const { short, plot, redraw, saveCsv } = Report;
  const page = JSON.parse(document.getElementById("data").textContent);
  const { groups, metrics, table: TABLE } = page;
  groups.forEach(Columns.restore);
  const MANY = 200; // with more runs, intervals hide each other and are slow to draw, so they are off at first
  const theme = document.getElementById("theme");

  function figures(group) {
    for (const view of group.views) {
      const id = `${group.id}-${view.id}-plot`;
      const state = { bars: group.runs.name.length <= MANY, surfaces: false, log: { ...view.logarithmic } };
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
      plot(id, () => Figures.scatter(group, view, state), {
        onClick: (row, add) => { if (row !== undefined) Run.choose({ group, row }, add); },
        onLegend: ({ legendgroup }, only) => { if (legendgroup) Choice.variant(legendgroup, only); },
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
        && (!Choice.labels.size || Choice.labels.has(runs.label[row]))), columns[sort.column].values, sort.down);
      Tables.body(element, rows.slice(0, limit).map((row) => columns.map(({ values, numeric }, i) => ({
        text: numeric ? short(values[row]) : values[row],
        numeric,
        value: values[row],
        ...(i === 0 ? { heading: true, onClick: () => Run.choose({ group, row }), check: {
          label: `choose ${runs.name[row]} too`, on: Choice.has({ group, row }), onChange: () => Run.choose({ group, row }, true),
        } } : {}),
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
    Choice.follow(update);
    update();
  }

  function bar() {
    const all = Object.assign({}, ...groups.map((group) => group.styles));
    const [clear, show] = ["clear", "show-runs"].map((id) => document.getElementById(id));
    const buttons = Object.entries(all).map(([label, [colour]]) => {
      const button = document.createElement("button");
      button.type = "button";
      const mark = document.createElement("span");
      mark.className = "swatch";
      mark.style.background = colour;
      button.append(mark, label);
      button.addEventListener("click", () => Choice.variant(label));
      return [label, button];
    });
    document.getElementById("variants").replaceChildren(...buttons.map(([, button]) => button));
    clear.addEventListener("click", () => Choice.set());
    show.addEventListener("click", Run.open);
    const follow = () => {
      const any = Choice.labels.size + Choice.runs.length > 0;
      for (const [label, button] of buttons) button.setAttribute("aria-pressed", Choice.labels.has(label));
      for (const row of document.querySelectorAll("tr[data-label]")) {
        row.classList.toggle("chosen", any && Choice.stands(row.dataset.label));
      }
      clear.hidden = !any;
      show.hidden = !Choice.runs.length;
      show.textContent = Choice.runs.length === 1 ? "Show the chosen run" : `Show ${Choice.runs.length} chosen runs`;
    };
    Choice.follow(follow);
    follow();
  }

  // The address is "#SECTION?choices", where the choices are the chosen runs, the explorer's form and the colours.
  let section = "";
  const key = ({ group, row }) => `${group.id}/${group.runs.name[row]}`;
  function write() {
    const choices = new URLSearchParams([
      ...Explorer.parameters(), ...[...Choice.labels].map((label) => ["variant", label]),
      ...Choice.runs.map((run) => ["run", key(run)]), ...(Run.isOpen() ? [["open", "1"]] : []),
      ...(theme.value ? [["theme", theme.value]] : []),
    ]).toString();
    const wanted = `#${section}${choices ? `?${choices}` : ""}`;
    if (wanted !== (location.hash || "#")) history.replaceState(null, "", wanted);
  }

  function read() {
    const [name, choices] = location.hash.slice(1).split("?");
    section = name;
    if (choices === undefined) return write();
    const given = new URLSearchParams(choices);
    const runs = given.getAll("run").flatMap((wanted) => groups.flatMap((group) => {
      const row = group.runs.name.findIndex((_, i) => key({ group, row: i }) === wanted);
      return row < 0 ? [] : [{ group, row }];
    }));
    theme.value = given.get("theme") ?? "";
    colour();
    Explorer.restore(given);
    Choice.set(given.getAll("variant"), runs);
    if (given.has("open") && runs.length) Run.open();
    document.getElementById(section)?.scrollIntoView();
  }

  function colour() {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
    redraw();
  }

  Run.start(metrics, page.logged, page.layered);
  bar();
  for (const group of groups) {
    figures(group);
    runsTable(group);
    for (const view of Features.views) Choice.follow(view(group, page.logged));
  }
  Explorer.start(groups, page.explorer, () => { section = "explorer"; write(); });
  theme.addEventListener("change", () => { colour(); write(); });
  read();
  Choice.follow(write);
  new MutationObserver(write).observe(document.getElementById("details"), { attributeFilter: ["hidden"] });
  window.addEventListener("hashchange", read);

  return { groups };
})();
