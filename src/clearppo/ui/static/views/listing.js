// Which answers of an iteration are listed and in which order: the part of the address that the table and the pages of
// single answers share, so that "next" means next in the list.

export const RANGES = ["score", "kl", "reward", "advantage", "length"];
export const LISTING = [
  "sort",
  "order",
  "q",
  "finish",
  "learned",
  "prompt_id",
  ...RANGES.flatMap((name) => [`min_${name}`, `max_${name}`]),
];

/** The list's own part of an address. */
export function listing(params) {
  return Object.fromEntries(
    LISTING.filter((name) => params[name] !== undefined && params[name] !== "").map((name) => [name, params[name]]),
  );
}

/** The same part, emptied. */
export function cleared(params) {
  return Object.fromEntries(Object.keys(listing(params)).map((name) => [name, undefined]));
}
