// Rate limits, and how full they are at this moment.

import { every } from "../api.js";
import { limits } from "../holdings.js";
import { pageHead } from "../parts.js";
import { names } from "../section.js";

/** They are looked at again so often, in seconds. */
const LOOK_S = 2;

export async function show(context) {
  const users = await names("users", "name", context.signal);
  const list = limits(context, null, users);
  every(LOOK_S, context.signal, async () => {
    // Who stands on a row with the keyboard keeps it.
    if (list.isConnected && !list.contains(document.activeElement)) await list.reload();
  });
  return [pageHead("Rate limits"), list];
}
