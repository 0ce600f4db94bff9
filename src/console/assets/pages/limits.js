// Rate limits, and how full they are at this moment.

import { limits } from "../holdings.js";
import { button, pageHead } from "../parts.js";
import { names } from "../section.js";

export async function show(context) {
  const users = await names("users", "name", context.signal);
  return [
    pageHead("Rate limits", button("Look again", context.again)),
    limits(context, null, users),
  ];
}
