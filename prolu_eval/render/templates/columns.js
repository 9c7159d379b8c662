"use strict";
// The data of a group as it was before `condensed.py` made it shorter.
const Columns = (() => {
  const { escaped } = Report;

  function read(column, n) {
    if (Array.isArray(column)) return column;
    if ("every" in column) return Array(n).fill(column.every);
    if ("prefix" in column) return column.rest.map((rest) => column.prefix + rest);
    return column.at.map((place) => column.values[place]);
  }

  const readAll = (columns, n) => Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, read(column, n)]));

  // The settings of each run, without those that it has not.
  function settingsOf(columns, n) {
    const known = Object.entries(readAll(columns, n));
    return Array.from({ length: n }, (_, row) =>
      Object.fromEntries(known.flatMap(([name, texts]) => (texts[row] === null ? [] : [[name, texts[row]]]))));
  }

  // The points of a variant's runs, in the order of the table; those of a line, in order of x.
  function addPoints(trace, runs, [x, y]) {
    const rows = [...runs.name.keys()].filter((row) =>
      runs.label[row] === trace.legendgroup && x[row] !== null && y[row] !== null);
    if (trace.meta === "line") rows.sort((a, b) => x[a] - x[b] || y[a] - y[b]);
    else Object.assign(trace, { customdata: rows, text: rows.map((row) => escaped(runs.name[row])) });
    Object.assign(trace, { x: rows.map((row) => x[row]), y: rows.map((row) => y[row]) });
  }

  const columnOf = (group, key) => group.runs.metrics[key]?.value ?? group.runs[key];

  function restore(group) {
    const { n, metrics, settings, shared_settings: shared, ...columns } = group.runs;
    group.runs = {
      ...readAll(columns, n), shared_settings: shared, settings: settingsOf(settings, n),
      metrics: Object.fromEntries(Object.entries(metrics).map(([key, parts]) => [key, readAll(parts, n)])),
    };
    for (const view of group.views) {
      const axes = [view.x, view.y].map((key) => columnOf(group, key));
      for (const trace of view.figure.data.filter(({ x }) => x === undefined)) addPoints(trace, group.runs, axes);
    }
  }

  return { columnOf, restore };
})();
