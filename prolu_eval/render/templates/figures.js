"use strict";
// Figures of runs over two columns, as Plotly's traces.
const Figures = (() => {
  const { token, narrow } = Report;
  const FAINT = 0.12;

  const columnOf = (group, key) => group.runs.metrics[key]?.value ?? group.runs[key];
  const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

  function surfacesCsv(view) {
    const rows = Object.entries(view.surfaces).flatMap(([label, named]) =>
      Object.entries(named).flatMap(([name, parts]) =>
        Object.entries(parts).flatMap(([part, points]) => points.map(([x, y]) => [label, name, part, x, y]))));
    return [["variant", "surface", "part", view.x, view.y], ...rows];
  }

  // A figure as Python built it, with what `state` { label, run, bars, surfaces, log } asks for.
  function scatter(group, view, state) {
    const shown = (trace) => {
      if (trace.meta === "band") return state.surfaces && state.bars;
      return trace.meta === "surface" ? state.surfaces : true;
    };
    const bars = (trace, name) => (trace[name] ? { [name]: { ...trace[name], visible: state.bars } } : {});
    const named = view.figure.layout.annotations ?? [];
    const narrowed = narrow();
    const standing = state.run === null ? state.label : group.runs.label[state.run];
    const strength = (label) => (standing === null || label === undefined || label === standing ? 1 : FAINT);
    const data = view.figure.data.filter(shown).map((trace) => ({
      ...trace, visible: true, opacity: strength(trace.legendgroup) * (trace.opacity ?? 1),
      ...bars(trace, "error_x"), ...bars(trace, "error_y"),
      ...(narrowed && named.length && trace.mode === "markers" ? { showlegend: true } : {}),
    }));
    const [x, y] = [columnOf(group, view.x), columnOf(group, view.y)];
    if (state.run !== null && x[state.run] !== null && y[state.run] !== null) {
      data.push({
        x: [x[state.run]], y: [y[state.run]], type: "scatter", mode: "markers", name: "chosen run", hoverinfo: "skip",
        showlegend: false, marker: { symbol: "circle-open", size: 22, line: { width: 3 }, color: token("--ink") },
      });
    }
    const layout = { ...view.figure.layout };
    for (const axis of ["xaxis", "yaxis"]) {
      if (state.log[axis] === view.logarithmic[axis]) continue;
      const { tickvals, ticktext, ...plain } = layout[axis];
      layout[axis] = { ...plain, type: state.log[axis] ? "log" : "linear" };
    }
    // Names at line ends are placed for the axes that Python chose; on others, a legend stands for them.
    const asBuilt = ["xaxis", "yaxis"].every((axis) => state.log[axis] === view.logarithmic[axis]);
    if (named.length && (narrowed || !asBuilt)) {
      layout.annotations = [];
      layout.margin = { ...layout.margin, r: 16 };
      for (const trace of data) if (trace.mode === "markers" && trace.legendgroup) trace.showlegend = true;
    } else layout.annotations = named.map((note) => ({ ...note, opacity: strength(note.name) }));
    return { data, layout };
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
