"use strict";
// The variants (by label) and runs (as { group, row }) that are chosen on the page, and the functions that are called
// when the choice changes.
const Choice = (() => {
  const FAINT = 0.12;
  const labels = new Set();
  const runs = [];
  const followers = [];

  const labelOf = ({ group, row }) => group.runs.label[row];
  const at = (run) => runs.findIndex(({ group, row }) => group === run.group && row === run.row);
  function tell() {
    for (const follow of followers) follow();
    Report.redraw();
  }

  // A variant is drawn at full strength if it is chosen, if one of its runs is chosen, or if nothing is.
  function stands(label) {
    if (labels.size) return labels.has(label);
    return !runs.length || runs.some((run) => labelOf(run) === label);
  }
  const strength = (label) => (label === undefined || stands(label) ? 1 : FAINT);

  // Choose a variant, or undo its choice and that of its runs; with `only`, undo the choice of all others too.
  function variant(label, only = false) {
    const alone = labels.size === 1 && labels.has(label);
    const leaves = only ? alone : labels.has(label);
    if (only) labels.clear();
    if (leaves) labels.delete(label); else labels.add(label);
    if (labels.size) runs.splice(0, runs.length, ...runs.filter((run) => labels.has(labelOf(run))));
    tell();
  }

  // Choose one run alone; with `add`, add it to the chosen runs, or take it away if it is among them.
  function run(given, add = false) {
    const place = at(given);
    if (!add) runs.length = 0;
    if (add && place >= 0) runs.splice(place, 1); else runs.push(given);
    if (labels.size && at(given) >= 0) labels.add(labelOf(given));
    tell();
  }

  function set(newLabels = [], newRuns = []) {
    labels.clear();
    for (const label of newLabels) labels.add(label);
    runs.splice(0, runs.length, ...newRuns);
    tell();
  }

  return { labels, runs, stands, strength, has: (run) => at(run) >= 0, variant, run, set, follow: (then) => followers.push(then) };
})();
