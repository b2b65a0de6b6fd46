// The rooms, in the order of their tabs. A room has an `id`, its words as `say` (title and
// explanation among them) and `show({state, model, place, given, ask, set})`, which gives its elements.

import { room as attention } from "./room-attention.js";
import { room as experts } from "./room-experts.js";
import { room as facts } from "./room-facts.js";
import { room as layers } from "./room-layers.js";
import { room as pair } from "./room-pair.js";
import { room as practice } from "./room-practice.js";
import { room as time } from "./room-time.js";
import { room as tokens } from "./room-tokens.js";

export const ROOMS = [tokens, layers, attention, experts, facts, time, practice, pair];
