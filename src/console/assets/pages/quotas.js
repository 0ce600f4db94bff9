// Quotas: what is spent of each, how long it lasts, and topping up.

import { paces, quotas } from "../holdings.js";
import { button, pageHead } from "../parts.js";
import { names } from "../section.js";

export async function show(context) {
  const [users, pace] = await Promise.all([
    names("users", "name", context.signal), paces("/admin/api", context.signal),
  ]);
  return [
    pageHead("Quotas", button("Look again", context.again)),
    quotas(context, null, users, pace),
  ];
}
