"use strict";
// Figures of runs over two columns, as traces for Plotly.
const Figures = (() => {
  const { token, narrow } = Report;
  const { strength } = Choice;
  const { columnOf } = Columns;

  // Ticks of a logarithmic axis: at 1, 2 and 5 times powers of ten, only at powers of ten if the range is wide, and at
  // more places if it is narrow.
  function logarithmic(values) {
    const positive = values.filter((value) => value > 0);
    const range = Math.max(...positive) / Math.min(...positive);
    const steps = range > 1e4 ? [1] : range > 5 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
    const tickvals = [...Array(25).keys()].flatMap((power) => steps.map((step) => Number(`${step}e${power - 12}`)));
    return { type: "log", tickvals, ticktext: tickvals.map(String) };
  }

  function surfacesCsv(view) {
    const rows = Object.entries(view.surfaces).flatMap(([label, named]) =>
      Object.entries(named).flatMap(([name, parts]) =>
        Object.entries(parts).flatMap(([part, points]) => points.map(([x, y]) => [label, name, part, x, y]))));
    return [["variant", "surface", "part", view.x, view.y], ...rows];
  }

  // Rings around the chosen runs that have values in both columns.
  function rings(points, axes = {}) {
    const there = points.filter(([x, y]) => x !== null && y !== null);
    return !there.length ? [] : [{
      x: there.map(([x]) => x), y: there.map(([, y]) => y), type: "scatter", mode: "markers", name: "chosen run",
      hoverinfo: "skip", showlegend: false, ...axes,
      marker: { symbol: "circle-open", size: 22, line: { width: 3 }, color: token("--ink") },
    }];
  }

  // A figure that Python built, with the intervals, attainment surfaces and scales of `state` { bars, surfaces, log }.
  function scatter(group, view, state) {
    const shown = (trace) => {
      if (trace.meta === "band") return state.surfaces && state.bars;
      return trace.meta === "surface" ? state.surfaces : true;
    };
    const bars = (trace, name) => (trace[name] ? { [name]: { ...trace[name], visible: state.bars } } : {});
    const named = view.figure.layout.annotations ?? [];
    const narrowed = narrow();
    const data = view.figure.data.filter(shown).map((trace) => ({
      ...trace, visible: true, opacity: strength(trace.legendgroup) * (trace.opacity ?? 1),
      ...bars(trace, "error_x"), ...bars(trace, "error_y"),
    }));
    const [x, y] = [columnOf(group, view.x), columnOf(group, view.y)];
    data.push(...rings(Choice.runs.filter((run) => run.group === group).map(({ row }) => [x[row], y[row]])));
    const layout = { ...view.figure.layout };
    for (const axis of ["xaxis", "yaxis"]) {
      if (state.log[axis] === view.logarithmic[axis]) continue;
      const { tickvals, ticktext, ...plain } = layout[axis];
      const ticks = logarithmic(view.figure.data.flatMap((trace) => trace[axis[0]]));
      layout[axis] = { ...plain, ...(state.log[axis] ? ticks : { type: "linear" }) };
    }
    // Names at the ends of lines are placed for the axes that Python chose; on other axes a legend replaces them.
    const asBuilt = ["xaxis", "yaxis"].every((axis) => state.log[axis] === view.logarithmic[axis]);
    if (named.length && (narrowed || !asBuilt)) {
      layout.annotations = [];
      for (const trace of data) {
        if (trace.meta === "all" || (trace.mode === "markers" && trace.legendgroup)) trace.showlegend = true;
      }
    } else layout.annotations = named.map((note) => ({ ...note, opacity: strength(note.name) }));
    return { data, layout };
  }

  function scatterCsv(group, view) {
    const { runs } = group;
    const keys = [view.x, view.y];
    const head = ["run", "variant", ...keys.flatMap((key) => (runs.metrics[key] ? [key, `${key}_low`, `${key}_high`] : [key]))];
    if (view.frontier) head.push("on_own_frontier", "on_frontier");
    const own = new Set(Object.values(view.lines ?? {}).flat());
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

  return { rings, logarithmic, scatter, scatterCsv, surfacesCsv };
})();
