"use strict";
// The figure of any two metrics of all runs, controlled by the form above it.
const Explorer = (() => {
  const { escaped, hover, narrow, token, plot, redraw, saveCsv } = Report;
  const { rings, logarithmic } = Figures;
  const { columnOf } = Columns;
  const { strength } = Choice;
  const ID = "explorer-plot";
  const LONGEST = 56; // the most characters in a panel's title
  const form = document.getElementById("explorer-form");
  let about, runs, styles;

  const one = (name) => form.elements[name].value;
  const several = (name) => new FormData(form).getAll(name);
  const valueOf = ({ group, row }, key) => (key === "evaluation" ? group.title : columnOf(group, key)[row]);
  const textOf = (run, key) => (key === "" ? "" : String(valueOf(run, key) ?? "unknown"));
  const grouped = (list, keyOf) => {
    const found = new Map();
    for (const item of list) {
      const key = keyOf(item);
      if (found.has(key)) found.get(key).push(item); else found.set(key, [item]);
    }
    return found;
  };

  // The look of a variant; for a value of another dimension, the look at its place among the dimension's values.
  function look(key, text) {
    if (key === "label") return styles[text];
    const place = about.dimensions[key]?.values.map(String).indexOf(text) ?? 0;
    return about.palette[Math.max(0, place) % about.palette.length];
  }

  // The points that a line joins, in order of x; runs that differ in nothing but the seed count by their mean.
  function joined(series, [x, y], how) {
    const points = [...grouped(series, ({ group, row }) => group.runs.configuration[row]).values()]
      .map((same) => [x, y].map((key) => same.reduce((sum, run) => sum + valueOf(run, key), 0) / same.length))
      .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    if (how !== "frontier") return points;
    const [right, up] = [x, y].map((key) => about.axes[key].better === "max");
    let best = up ? -Infinity : Infinity;
    const kept = (right ? points.toReversed() : points).filter(([, value]) => {
      const better = up ? value > best : value < best;
      if (better) best = value;
      return better;
    });
    return right ? kept.toReversed() : kept;
  }

  const shown = () => runs.filter((run) =>
    [one("x"), one("y")].every((key) => (valueOf(run, key) ?? null) !== null)
    && about.filters.every((key) => !several(key).length || several(key).includes(textOf(run, key))));

  function errors(series, axis, key, color) {
    if (one("points") !== "intervals" || series[0].group.runs.metrics[key] === undefined) return {};
    const ends = (end) => series.map(({ group, row }) => {
      const metric = group.runs.metrics[key];
      return metric[end][row] === null ? 0 : Math.abs(metric[end][row] - metric.value[row]);
    });
    return { [`error_${axis}`]: {
      type: "data", symmetric: false, array: ends("high"), arrayminus: ends("low"), thickness: 1.5, width: 3, color,
    } };
  }

  // The traces of one series: its line and its points.
  function traces(series, axes) {
    const [x, y, colour, lines] = ["x", "y", "colour", "lines"].map(one);
    const measured = colour in about.axes;
    const [own] = look(measured ? lines : colour, textOf(series[0], measured ? lines : colour));
    const inked = measured ? token("--soft") : own;
    const [, symbol, dash] = look(lines, textOf(series[0], lines));
    const path = joined(series, [x, y], one("join"));
    const strengths = series.map((run) => strength(textOf(run, "label")));
    const common = { type: "scatter", showlegend: false, ...axes };
    const points = {
      ...common, mode: "markers", customdata: series.map((run) => run.index),
      x: series.map((run) => valueOf(run, x)), y: series.map((run) => valueOf(run, y)),
      text: series.map((run) => `<b>${escaped(textOf(run, "name"))}</b><br>${escaped(textOf(run, "label"))}`),
      hovertemplate: `%{text}<br>${about.axes[x].title} %{x:${hover}}<br>${about.axes[y].title} %{y:${hover}}<extra></extra>`,
      marker: {
        symbol, size: 9, opacity: strengths,
        ...(measured ? { color: series.map((run) => valueOf(run, colour)), coloraxis: "coloraxis" } : { color: own }),
      },
      ...(Math.max(...strengths) < 1 ? {} : { ...errors(series, "x", x, inked), ...errors(series, "y", y, inked) }),
    };
    if (one("join") === "none") return [points];
    return [{
      ...common, mode: "lines", hoverinfo: "skip", x: path.map((p) => p[0]), y: path.map((p) => p[1]),
      opacity: Math.max(...strengths), line: { color: inked, width: 2, dash },
    }, points];
  }

  // Entries of the legend without points, which say what colours, markers and dashes mean.
  function legend(found) {
    const [colour, lines] = [one("colour"), one("lines")];
    const entries = (key, style) => [...grouped(found, (run) => textOf(run, key)).keys()].sort(inOrder(key)).map((text) => ({
      type: "scatter", x: [null], y: [null], mode: "lines+markers", name: escaped(text), showlegend: true,
      opacity: key === "label" ? strength(text) : 1, meta: { key, text }, ...style(look(key, text)),
    }));
    const both = colour === lines;
    return [
      ...(colour in about.dimensions ? entries(colour, ([color, symbol, dash]) => ({
        marker: { color, symbol: both ? symbol : "circle", size: 9 }, line: { color, dash: both ? dash : "solid" },
      })) : []),
      ...(both ? [] : entries(lines, ([, symbol, dash]) => ({
        marker: { color: token("--soft"), symbol, size: 9 }, line: { color: token("--soft"), dash },
      }))),
    ];
  }

  const inOrder = (key) => {
    const order = about.dimensions[key].values.map(String);
    return (a, b) => order.indexOf(a) - order.indexOf(b);
  };

  function axis(name, found, titled) {
    const key = one(name);
    const values = found.map((run) => valueOf(run, key));
    const positive = values.length > 0 && Math.min(...values) > 0;
    const scale = one(`${name}scale`) || (about.axes[key].log && positive && Math.max(...values) > 3 * Math.min(...values) ? "log" : "linear");
    return {
      title: { text: titled ? about.axes[key].title : "" },
      ...(scale === "log" ? logarithmic(values) : { rangemode: about.axes[key].better === "min" && Math.min(...values) >= 0 ? "tozero" : "normal" }),
    };
  }

  function figure() {
    const found = shown();
    const by = one("panels");
    const panels = [...grouped(found, (run) => textOf(run, by))].sort(([a], [b]) => (by ? inOrder(by)(a, b) : 0));
    const columns = narrow() ? 1 : Math.min(3, panels.length) || 1;
    const rows = Math.ceil(panels.length / columns) || 1;
    document.getElementById(ID).style.height = `${rows === 1 ? 30 : 22 * rows}rem`;
    const data = legend(found);
    const layout = {
      grid: { rows, columns, pattern: "independent", xgap: 0.12, ygap: 0.22 }, annotations: [],
      ...(one("colour") in about.axes ? { coloraxis: { colorscale: "Viridis", colorbar: {
        title: { text: about.axes[one("colour")].title, side: "right" }, thickness: 14, outlinewidth: 0,
      } } } : {}),
    };
    (panels.length ? panels : [["", []]]).forEach(([text, members], i) => {
      const n = i ? i + 1 : "";
      const axes = { xaxis: `x${n}`, yaxis: `y${n}` };
      layout[`xaxis${n}`] = { ...axis("x", found, i + columns >= panels.length), ...(i ? { matches: "x" } : {}) };
      layout[`yaxis${n}`] = { ...axis("y", found, i % columns === 0), ...(i ? { matches: "y" } : {}) };
      if (by) {
        layout.annotations.push({
          text: escaped(text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text), showarrow: false, xref: `x${n} domain`, yref: `y${n} domain`, x: 0, y: 1.01, yanchor: "bottom",
        });
      }
      const key = (run) => ["evaluation", "lines", "colour"].map((name) =>
        (name === "colour" && one("colour") in about.axes ? "" : textOf(run, name === "evaluation" ? name : one(name)))).join("\n");
      for (const series of grouped(members, key).values()) data.push(...traces(series, axes));
      const ringed = members.filter(Choice.has);
      data.push(...rings(ringed.map((run) => [valueOf(run, one("x")), valueOf(run, one("y"))]), axes));
    });
    if (by) layout.legend = { orientation: "h", yanchor: "bottom", y: 1 + 0.08 / rows, x: 0 };
    return { data, layout };
  }

  function csv() {
    const keys = ["name", "label", ...Object.keys(about.dimensions).filter((key) => key !== "label"), one("x"), one("y")];
    if (one("colour") in about.axes) keys.push(one("colour"));
    saveCsv("explorer.csv", [keys, ...shown().map((run) => keys.map((key) => valueOf(run, key)))]);
  }

  // The choices that differ from the page's initial ones, for the address; `restore` reads them back.
  const parameters = () => [...new Set([...form.elements].map((e) => e.name).filter(Boolean))].flatMap((name) => {
    const now = several(name);
    return String(now) === String(initial[name]) ? [] : now.map((value) => [name, value]);
  });
  let initial = {};
  function restore(given) {
    form.reset();
    for (const element of form.elements) {
      if (!element.name || !given.has(element.name)) continue;
      if (element.type === "checkbox") element.checked = given.getAll(element.name).includes(element.value);
      else if ([...element.options].some(({ value }) => value === given.get(element.name))) element.value = given.get(element.name);
    }
    update();
  }

  function update() {
    const { presets } = about;
    const at = presets.findIndex(({ x, y }) => x === one("x") && y === one("y"));
    document.getElementById("explorer-preset").value = at;
    const found = shown();
    document.getElementById("explorer-count").textContent = `${found.length} of ${runs.length} runs have both metrics and pass the filters.`;
    redraw(ID);
  }

  function start(groups, document_, onChange) {
    about = document_;
    styles = Object.assign({}, ...groups.map((group) => group.styles));
    runs = groups.flatMap((group) => group.runs.name.map((_, row) => ({ group, row })))
      .map((run, index) => ({ ...run, index }));
    initial = Object.fromEntries([...form.elements].filter((e) => e.name).map(({ name }) => [name, several(name)]));
    form.addEventListener("change", () => { update(); onChange(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("explorer-preset").addEventListener("change", ({ target }) => {
      const preset = about.presets[target.value];
      if (!preset) return;
      for (const name of ["x", "y", "join"]) form.elements[name].value = preset[name];
    });
    document.getElementById("explorer-csv").addEventListener("click", csv);
    plot(ID, figure, {
      onClick: (index, add) => { if (index !== undefined) Run.choose(runs[index], add); },
      onLegend: ({ meta }, only) => {
        if (meta.key === "label") Choice.variant(meta.text, only);
        else [...form.elements].find(({ name, value }) => name === meta.key && value === meta.text)?.click();
      },
    });
    update();
  }

  return { start, restore, parameters };
})();
