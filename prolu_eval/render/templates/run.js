"use strict";
// The chosen runs side by side: metrics, settings, training, features and examples.
const Run = (() => {
  const { escaped, rounded, short, hover, token, narrow, plot, redraw, saveCsv, plotCsv } = Report;
  const { axisOf, middles, fill } = Features;
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const element = (name) => document.getElementById(`run-${name}`);
  const panel = document.getElementById("details");
  let metrics, logged, layered, opener;

  const nameOf = ({ group, row }) => group.runs.name[row];
  const partOf = (part) => Choice.runs.filter(({ group, row }) => group.features[part][row] !== undefined);
  const detail = ({ group, row }, part) => group.features[part][row];
  // The style of a run's line: its variant's colour, and a dash that tells it from the other chosen runs.
  const line = (run, i) => ({
    type: "scatter", mode: "lines", name: escaped(nameOf(run)), legendgroup: nameOf(run), showlegend: Choice.runs.length > 1,
    line: { color: run.group.styles[run.group.runs.label[run.row]][0], dash: DASHES[i % 4], width: 2 },
  });
  const percent = { title: { text: "fraction of features" }, tickformat: ".1~%" };
  const shares = (counts, more = 0) => {
    const total = counts.reduce((a, b) => a + b, more);
    return counts.map((count) => count / total);
  };

  // A small panel for each column of a part, two side by side where there is room. `titles` are theirs by column, `axes`
  // gives those of a column and its curves, and `trace` is what a run's line has besides.
  function panels(part, runs, titles, xTitle, x, axes, trace) {
    const names = Object.keys(titles).filter((name) => runs.some((run) => detail(run, part)[name]));
    const columns = narrow() ? 1 : Math.min(2, names.length);
    const rows = Math.ceil(names.length / columns);
    const layout = {
      grid: { rows, columns, pattern: "independent", xgap: 0.15, ygap: 0.3 }, annotations: [],
      legend: { orientation: "h", yanchor: "bottom", y: 1 + 0.2 / rows, x: 0 },
    };
    element(`${part}-plot`).style.height = `${4 + 12 * rows}rem`;
    const data = names.flatMap((name, i) => {
      const n = i ? i + 1 : "";
      const curves = runs.map((run) => detail(run, part)[name]).filter(Boolean);
      const { xaxis, yaxis } = axes(name, curves);
      layout[`xaxis${n}`] = { ...xaxis, title: { text: i + columns >= names.length ? xTitle : "" } };
      layout[`yaxis${n}`] = yaxis;
      layout.annotations.push({
        text: titles[name], showarrow: false, xref: `x${n} domain`, yref: `y${n} domain`, x: 0, y: 1.02, yanchor: "bottom",
      });
      return runs.filter((run) => detail(run, part)[name]).map((run) => ({
        ...line(run, Choice.runs.indexOf(run)), ...trace, x: detail(run, part)[x], y: detail(run, part)[name],
        xaxis: `x${n}`, yaxis: `y${n}`, ...(i ? { showlegend: false } : {}),
      }));
    });
    return { data, layout };
  }

  const VIEWS = {
    layers: {
      part: "layers",
      figure: (runs) => panels(
        "layers", runs, layered, detail(runs[0], "layers").axis, "places",
        () => ({ xaxis: { type: "category" }, yaxis: { title: { text: "" }, rangemode: "tozero" } }), { mode: "lines+markers" },
      ),
    },
    training: {
      part: "training",
      figure: (runs) => panels(
        "training", runs, logged, "step", "step", (name, curves) => ({ xaxis: {}, yaxis: axisOf("", curves, name === "loss") }), {},
      ),
    },
    biases: {
      part: "histories",
      prepare(runs) {
        const slider = element("step");
        slider.max = Math.max(...runs.map((run) => detail(run, "histories").steps.length)) - 1;
        const { steps } = detail(runs[0], "histories");
        element("step-shown").textContent = `step ${steps[Math.min(slider.value, steps.length - 1)]}`;
      },
      figure: (runs) => ({
        data: runs.flatMap((run, i) => {
          const { edges, counts, steps } = detail(run, "histories");
          const now = Math.min(element("step").value, steps.length - 1);
          const own = (at, name, style) => ({
            ...line(run, i), x: middles(edges), y: shares(counts[at]), name: `${name}${runs.length > 1 ? `, ${escaped(nameOf(run))}` : ""}`,
            showlegend: runs.length === 1 || name.startsWith("step"), hovertemplate: `step ${steps[at]}<br>%{x:${hover}}: %{y:.2%}<extra></extra>`,
            line: { ...line(run, i).line, shape: "hvh", ...style },
          });
          return [own(steps.length - 1, `last step, ${steps.at(-1)}`, { dash: "dot", width: 1 }), own(now, `step ${steps[now]}`, {})];
        }),
        layout: { xaxis: { title: { text: "encoder bias (training units)" } }, yaxis: { ...percent, rangemode: "tozero" } },
      }),
    },
    histogram: {
      part: null,
      figure(runs) {
        const what = element("array").value;
        const all = runs.map((run) => [run, run.group.features.histograms[what]]).filter(([{ row }, found]) => found?.counts[row]);
        const [, { title, unit, logarithmic } = {}] = all[0] ?? [];
        return {
          data: all.map(([run, { edges, counts, left_out: left }], i) => ({
            ...line(run, i), x: middles(edges).map((m) => (logarithmic ? rounded(10 ** m) : m)),
            y: shares(counts[run.row], left[run.row]), hovertemplate: `%{x:${hover}}: %{y:.2%}<extra></extra>`,
          })),
          layout: {
            xaxis: { title: { text: all.length ? `${title} (${unit})` : "" }, type: logarithmic ? "log" : "linear" },
            yaxis: { ...percent, rangemode: "tozero" },
          },
        };
      },
    },
    curves: {
      part: "curves",
      figure(runs) {
        const last = Math.max(...runs.map((run) => detail(run, "curves").scales.at(-1)));
        return {
          data: [
            { type: "scatter", mode: "lines", x: [0, last], y: [0, last], hoverinfo: "skip", name: "through the origin",
              line: { color: token("--soft"), dash: "dash", width: 1 } },
            ...runs.flatMap((run, i) => detail(run, "curves").features.map((feature, j) => ({
              ...line(run, i), x: detail(run, "curves").scales, y: detail(run, "curves").responses[j], opacity: 1 - 0.09 * j,
              ...(j ? { showlegend: false } : {}), hovertemplate: `feature ${feature}<br>scale %{x}: %{y:${hover}}<extra></extra>`,
            }))),
          ],
          layout: { xaxis: { title: { text: "scale of the input" } }, yaxis: { title: { text: "activation, relative" }, rangemode: "tozero" } },
        };
      },
    },
  };

  const of = ({ part }) => (part === null ? [...Choice.runs] : partOf(part));
  function showViews() {
    for (const [name, view] of Object.entries(VIEWS)) {
      const runs = of(view);
      element(name).hidden = !runs.length;
      if (!runs.length) continue;
      view.prepare?.(runs);
      redraw(`run-${name}-plot`);
    }
  }

  // A table with a row for each name and a column for each run, filled by `text`; rows without any text are left out.
  function showTable(table, names, text) {
    const rows = names.map((name) => [name, ...Choice.runs.map((run) => text(run, name))]).filter((row) => row.slice(1).some(Boolean));
    const title = (name) => metrics[name]?.title ?? name;
    Tables.plainHead(table, ["", ...Choice.runs.map(nameOf)]);
    Tables.body(table, rows.map(([name, ...texts]) => [{ text: title(name), heading: true }, ...texts.map((t) => ({ text: t }))]));
  }

  function measured({ group, row }, key) {
    const metric = group.runs.metrics[key];
    if ((metric?.value[row] ?? null) === null) return "";
    const interval = metric.low[row] === null ? "" : ` [${short(metric.low[row])}, ${short(metric.high[row])}]`;
    return `${short(metric.value[row])}${interval} ${metrics[key].unit}`.trim();
  }

  function about({ group, row }, name) {
    const { runs } = group;
    const known = {
      variant: runs.label[row], "on the frontier": runs.on_frontier[row] ? "yes" : "no",
      "in resamplings": runs.membership[row] === null ? "" : `${short(100 * runs.membership[row])} %`,
      format: runs.format[row], checkpoint: runs.path[row], result: runs.fingerprint[row],
    };
    return known[name] ?? runs.settings[row][name] ?? runs.shared_settings[name] ?? "";
  }

  const TITLES = {
    feature: "feature", firing_rate: "firing rate", mean_when_active: "mean when active", max: "largest",
    bias: "bias", effective_threshold: "effective threshold", alignment: "alignment",
  };
  const unpacked = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const features = { columns: [], texts: {}, sort: null, limit: 100 };

  function loadFeatures() {
    const run = partOf("tables")[element("which").selectedIndex];
    const packed = detail(run, "tables");
    features.columns = Object.keys(TITLES).filter((name) => name in packed).map((name) => [name, unpacked(packed[name])]);
    features.columns.unshift(["feature", Float32Array.from(features.columns[0][1], (_, i) => i)]);
    features.texts = detail(run, "examples") ?? {};
    const rate = features.columns.findIndex(([name]) => name === "firing_rate");
    features.sort = { column: Math.max(0, rate), down: rate >= 0 };
    const heads = features.columns.map(([name]) => ({ title: TITLES[name], numeric: true }));
    Tables.head(element("features-table"), heads, features.sort, () => showFeatures(100), hasTexts() ? ["strongest on"] : []);
    element("examples").replaceChildren();
    showFeatures(100);
  }

  const hasTexts = () => Object.keys(features.texts).length > 0;
  function matching() {
    const wanted = element("find").value.trim().toLowerCase();
    const rate = features.columns.find(([name]) => name === "firing_rate")?.[1];
    const rows = [...features.columns[0][1].keys()];
    if (wanted === "dead") return rows.filter((i) => rate?.[i] === 0);
    if (wanted === "dense") return rows.filter((i) => rate?.[i] > 0.1);
    const texts = (i) => (features.texts[i] ?? []).some(([, , tokenText]) => tokenText.toLowerCase().includes(wanted));
    if (/^\d+$/.test(wanted)) return rows.filter((i) => i === Number(wanted));
    return wanted === "" ? rows : rows.filter(texts);
  }

  function showFeatures(limit) {
    features.limit = limit;
    const rows = Tables.sorted(matching(), features.columns[features.sort.column][1], features.sort.down);
    const cell = (name, value, i) => {
      if (name !== "feature") return { text: Number.isNaN(value) ? "–" : short(value), numeric: true };
      return { text: String(i), numeric: true, ...(features.texts[i] ? { onClick: () => showExamples(i) } : {}) };
    };
    const strongest = (i) => [...new Set((features.texts[i] ?? []).map(([, , t]) => t.trim()))].slice(0, 4).join(" · ");
    Tables.body(element("features-table"), rows.slice(0, limit).map((i) => [
      ...features.columns.map(([name, values]) => cell(name, values[i], i)), ...(hasTexts() ? [{ text: strongest(i) }] : []),
    ]));
    element("count").textContent = `${Math.min(limit, rows.length)} of ${rows.length} features`;
    element("more").hidden = rows.length <= limit;
  }

  const inLine = (text) => text.replaceAll("\n", "↵");
  // The strongest examples of a feature; the colour of the token is as strong as the activation on it.
  function showExamples(feature) {
    const found = features.texts[feature];
    const list = document.createElement("ol");
    list.tabIndex = 0; // it scrolls, so it must be reachable by keyboard
    for (const [activation, before, text, after] of found) {
      const item = document.createElement("li");
      const [value, mark] = [document.createElement("output"), document.createElement("mark")];
      value.textContent = short(activation);
      mark.textContent = inLine(text);
      mark.style.setProperty("--strength", `${Math.round((100 * activation) / found[0][0])}%`);
      item.append(value, inLine(before), mark, inLine(after));
      list.append(item);
    }
    const title = document.createElement("h4");
    title.textContent = `Strongest examples of feature ${feature}`;
    title.tabIndex = -1;
    element("examples").replaceChildren(title, list);
    title.focus();
  }

  function show() {
    if (panel.hidden || !Choice.runs.length) { panel.hidden = true; return; }
    document.getElementById("details-title").textContent = Choice.runs.map(nameOf).join(", ");
    showTable(element("metrics-table"), Object.keys(metrics), measured);
    const settings = new Set(Choice.runs.flatMap(({ group, row }) => [
      ...Object.keys(group.runs.settings[row]), ...Object.keys(group.runs.shared_settings),
    ]));
    showTable(element("settings-table"), [...new Set(["variant", "on the frontier", "in resamplings", ...settings, "format", "checkpoint", "result"])], about);
    showViews();
    const tables = partOf("tables");
    element("table").hidden = !tables.length;
    element("left-out").textContent = tables.length === Choice.runs.length ? "" : "A page has room for the features of a limited number of runs, those on frontiers first; the stored results have the features of all runs.";
    if (!tables.length) return;
    const before = element("which").value;
    fill(element("which"), tables.map((run) => [`${run.group.id}/${run.row}`, nameOf(run)]));
    if ([...element("which").options].some(({ value }) => value === before)) element("which").value = before;
    loadFeatures();
  }

  function open() {
    if (panel.hidden) opener = document.activeElement;
    panel.hidden = false;
    show();
    document.getElementById("details-title").focus({ preventScroll: true });
  }

  function close() {
    panel.hidden = true;
    opener?.focus({ preventScroll: true });
    Choice.set(Choice.labels);
  }

  // Choose a run and show it; with `add`, add it to the chosen runs.
  function choose(run, add) {
    Choice.run(run, add);
    if (!add) open();
  }

  // The names of the figures that have something to show.
  const figures = () => Object.keys(VIEWS).filter((name) => of(VIEWS[name]).length);

  function start(metrics_, logged_, layered_) {
    [metrics, logged, layered] = [metrics_, logged_, layered_];
    for (const [name, view] of Object.entries(VIEWS)) {
      plot(`run-${name}-plot`, () => (of(view).length ? view.figure(of(view)) : { data: [], layout: {} }));
      element(name).querySelector("[data-figure-csv]").addEventListener("click", () => plotCsv(`run-${name}-plot`, `${name}.csv`));
    }
    for (const name of ["step", "array"]) element(name).addEventListener("input", showViews);
    element("which").addEventListener("change", loadFeatures);
    element("find").addEventListener("input", () => showFeatures(100));
    element("more").addEventListener("click", () => showFeatures(features.limit + 100));
    element("features-csv").addEventListener("click", () => saveCsv("features.csv", [
      features.columns.map(([name]) => name),
      ...matching().map((i) => features.columns.map(([, values]) => (Number.isNaN(values[i]) ? null : values[i]))),
    ]));
    document.getElementById("details-close").addEventListener("click", close);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !panel.hidden) close();
    });
    Choice.follow(show);
  }

  return { start, open, close, choose, figures, isOpen: () => !panel.hidden };
})();
