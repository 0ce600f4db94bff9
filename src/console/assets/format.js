// Numbers, amounts and times as people read them.

const COUNT = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const TIME = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const HOUR = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
});
const MINUTE = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** 1,234,567 */
export const count = (number) => COUNT.format(number);

/** 1.2M */
export const short = (number) => SHORT.format(number);

/** $12.30, $0.0054: of decimal text, with two digits that are not zeros. */
export function usd(amount) {
  const number = Number(amount);
  if (number === 0) return "$0";
  if (Math.abs(number) >= 1_000_000) return `$${SHORT.format(number)}`;
  const zeros = Math.max(0, -Math.floor(Math.log10(Math.abs(number))) - 1);
  const maximumFractionDigits = Math.abs(number) >= 1 ? 2 : Math.min(12, zeros + 2);
  const text = number.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits });
  return `$${text}`;
}

/** 25 Nov 2026, 13:05:09, of milliseconds since 1970, in the reader's time zone. */
export const time = (ms) => TIME.format(ms);

/** 13:05:09 */
export const clock = (ms) => CLOCK.format(ms);

/** 25 Nov */
export const day = (ms) => DAY.format(ms);

/** 25 Nov, 13:00 */
export const hour = (ms) => HOUR.format(ms);

const isMidnight = (ms) => new Date(ms).getHours() === 0;

/** 13:00, or 25 Nov at midnight: below an axis of hours. */
export const hourMark = (ms) => (isMidnight(ms) ? DAY.format(ms) : MINUTE.format(ms));

/** 25 Nov at midnight, otherwise nothing: below an axis of hours of many days. */
export const midnightMark = (ms) => (isMidnight(ms) ? DAY.format(ms) : "");

/** 820 ms, 1.2 s, 3 min 5 s, 2 h 10 min, 4 d */
export function duration(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 172_800) {
    return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
  }
  return `${Math.floor(seconds / 86_400)} d`;
}

/** How long ago, or how far ahead. */
export function since(ms) {
  const passed = Date.now() - ms;
  if (Math.abs(passed) < 1_000) return "now";
  return passed > 0 ? `${duration(passed)} ago` : `in ${duration(-passed)}`;
}

/** 1.5 MiB */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let rest = number;
  while (rest >= 1024 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${unit ? rest.toFixed(1) : rest} ${units[unit]}`;
}

/** 12.3 % */
export const percent = (part) => `${(part * 100).toFixed(part && part < 0.1 ? 1 : 0)} %`;
