"use strict";
// Figures of runs over two columns, as Plotly's traces.
const Figures = (() => {
  const { escaped, token } = Report;
  const FAINT = 0.12;

  const columnOf = (group, key) => group.runs.metrics[key]?.value ?? group.runs[key];
  const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

  function hover(group, view, row) {
    const { runs } = group;
    const lines = [`<b>${escaped(runs.name[row])}</b>`, escaped(runs.label[row])];
    if (runs.coefficient[row] !== null) lines.push(`coefficient ${short(runs.coefficient[row])}`);
    for (const [key, title] of [[view.x, view.x_title], [view.y, view.y_title]]) {
      const metric = runs.metrics[key];
      if (metric) {
        lines.push(`${title}: ${short(metric.value[row])} [${short(metric.low[row])}, ${short(metric.high[row])}]`);
      }
    }
    return lines.join("<br>");
  }

  function errorBars(group, key, rows, colour) {
    const metric = group.runs.metrics[key];
    if (!metric) return undefined;
    const part = (row, end) => (metric[end][row] === null ? 0 : Math.abs(metric[end][row] - metric.value[row]));
    return {
      type: "data", symmetric: false, thickness: 1, width: 2, color: colour,
      array: rows.map((row) => part(row, "high")), arrayminus: rows.map((row) => part(row, "low")),
    };
  }

  // A variant's attainment surfaces, with their bands if intervals are shown.
  function surfaces(own, colour, common, state) {
    return [["best", "dot"], ["median", "solid"], ["worst", "dash"]].flatMap(([name, dash]) => {
      const { corners, better, worse } = own[name];
      const line = (points) => ({ x: points.map((p) => p[0]), y: points.map((p) => p[1]) });
      const band = {
        ...common, ...line([...better, ...worse.toReversed()]), mode: "lines", line: { width: 0 }, fill: "toself",
        fillcolor: colour, opacity: 0.15 * common.opacity, showlegend: false, hoverinfo: "skip",
      };
      return [...(state.bars && better.length ? [band] : []), {
        ...common, ...line(corners), mode: "lines", line: { color: colour, width: 1, shape: "hv", dash },
        showlegend: false, hovertemplate: `${common.name}: ${name} over seeds<extra></extra>`,
      }];
    });
  }

  function surfacesCsv(view) {
    const rows = Object.entries(view.surfaces).flatMap(([label, named]) =>
      Object.entries(named).flatMap(([name, parts]) =>
        Object.entries(parts).flatMap(([part, points]) => points.map(([x, y]) => [label, name, part, x, y]))));
    return [["variant", "surface", "part", view.x, view.y], ...rows];
  }

  // `state`: { label, run, bars, surfaces, log: {xaxis, yaxis} }
  function scatter(group, view, state) {
    const x = columnOf(group, view.x);
    const y = columnOf(group, view.y);
    const at = (rows) => ({ x: rows.map((row) => x[row]), y: rows.map((row) => y[row]) });
    const data = [];
    for (const [label, [colour, symbol]] of Object.entries(group.styles)) {
      const rows = group.runs.label.flatMap((own, row) =>
        own === label && x[row] !== null && y[row] !== null ? [row] : []);
      const opacity = state.label === null || state.label === label ? 1 : FAINT;
      const common = { type: "scatter", legendgroup: label, name: escaped(label), opacity };
      data.push({
        ...common, ...at(view.lines[label] ?? []), mode: "lines", hoverinfo: "skip", showlegend: false,
        line: { color: colour, width: 1.5 },
      });
      data.push({
        ...common, ...at(rows), mode: "markers", customdata: rows,
        marker: { color: colour, symbol, size: 9 },
        ...(state.bars ? { error_x: errorBars(group, view.x, rows, colour), error_y: errorBars(group, view.y, rows, colour) } : {}),
        text: rows.map((row) => hover(group, view, row)), hovertemplate: "%{text}<extra></extra>",
      });
      if (state.surfaces && view.surfaces[label]) data.push(...surfaces(view.surfaces[label], colour, common, state));
    }
    if (view.frontier) {
      data.push({
        ...at(view.front), type: "scatter", mode: "markers", name: "on the frontier of all", hoverinfo: "skip",
        marker: { symbol: "circle-open", size: 16, line: { width: 1.5 }, color: token("--soft") },
      });
    }
    if (state.run !== null && x[state.run] !== null && y[state.run] !== null) {
      data.push({
        ...at([state.run]), type: "scatter", mode: "markers", name: "chosen run", hoverinfo: "skip",
        marker: { symbol: "circle-open", size: 22, line: { width: 3 }, color: token("--ink") },
      });
    }
    const axis = (name, title) => ({ title: { text: title }, type: state.log[name] ? "log" : "linear" });
    return { data, layout: { xaxis: axis("xaxis", view.x_title), yaxis: axis("yaxis", view.y_title) } };
  }

  function scatterCsv(group, view) {
    const { runs } = group;
    const keys = [view.x, view.y];
    const head = ["run", "variant", ...keys.flatMap((key) => (runs.metrics[key] ? [key, `${key}_low`, `${key}_high`] : [key]))];
    if (view.frontier) head.push("on_own_frontier", "on_frontier");
    const own = new Set(Object.values(view.lines).flat());
    const all = new Set(view.front);
    return [head, ...runs.name.map((name, row) => [
      name, runs.label[row],
      ...keys.flatMap((key) => {
        const metric = runs.metrics[key];
        return metric ? [metric.value[row], metric.low[row], metric.high[row]] : [runs[key][row]];
      }),
      ...(view.frontier ? [own.has(row), all.has(row)] : []),
    ])];
  }

  return { scatter, scatterCsv, surfacesCsv, short };
})();
