// Two states of one chat, as two windows may have them, made one: what is in either is kept, message by message.
//
// A message is known by its id, which is random. Of two states of a message the later one holds. A deleted chat is a record
// {id, deleted: when}; what was changed after that brings it back.

/** Take into `talk` what `other` has besides. `busy(node)` says that a message is being written here, so that its state here holds. */
export function absorb(talk, other, busy = () => false) {
  const shown = chosenIds(talk);
  for (const theirs of Object.values(other.nodes)) {
    const ours = talk.nodes[theirs.id];
    if (!ours) talk.nodes[theirs.id] = structuredClone(theirs);
    else if (stamp(theirs) > stamp(ours) && !busy(ours)) Object.assign(ours, structuredClone(theirs), { below: ours.below, chosen: ours.chosen });
  }
  for (const theirs of Object.values(other.nodes)) {
    const ours = talk.nodes[theirs.id];
    ours.below = together(talk, ours.below, theirs.below);
  }
  talk.top = together(talk, talk.top, other.top);
  for (const [place, list] of places(talk)) {
    const at = list.indexOf(shown.get(place.id));
    place.chosen = at >= 0 ? at : Math.max(0, Math.min(place.chosen, list.length - 1));
  }
  if ((other.headed ?? 0) > (talk.headed ?? 0)) {
    const { title, system, model, headed } = other;
    Object.assign(talk, { title, system, model, headed });
  }
  talk.title ||= other.title;
  talk.changed = Math.max(talk.changed, other.changed);
  return talk;
}

/** Whether a record is of a chat, and not of one that was deleted after its last change. */
export const isAlive = (record) => record !== undefined && record.nodes !== undefined && !(record.deleted >= record.changed);

const stamp = (node) => node.changed ?? node.created ?? 0;

/** Each place that has versions below it, with their ids. */
function places(talk) {
  return [[talk, talk.top], ...Object.values(talk.nodes).map((node) => [node, node.below])];
}

function chosenIds(talk) {
  return new Map(places(talk).map(([place, list]) => [place.id, list[place.chosen]]));
}

/** Ids of both lists, in the order in which they were made. */
function together(talk, ours, theirs) {
  const all = [...new Set([...ours, ...theirs])].filter((id) => talk.nodes[id]);
  if (all.length === ours.length) return ours;
  return all.sort((a, b) => (talk.nodes[a].created ?? 0) - (talk.nodes[b].created ?? 0));
}
