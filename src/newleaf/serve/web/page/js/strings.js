// Everything the page says, in each of its languages.

import { en } from "./words/en.js";
import { zh } from "./words/zh.js";

export const STRINGS = { en, zh };
