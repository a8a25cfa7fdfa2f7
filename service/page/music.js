// Tunes in ABC notation (abcnotation.com, standard 2.1): a picture of the notes, a player, and a MIDI file.
// Read are one voice with keys, modes, lengths, tuplets, chords, broken rhythm and repeats. Ornaments are skipped.

import { el, svg } from "./dom.js";

const NATURAL = { C: 0, D: 2, E: 4, F: 5, G: 7, A: 9, B: 11 };
const FIFTHS = { C: 0, G: 1, D: 2, A: 3, E: 4, B: 5, F: -1 };
const MODES = { maj: 0, ion: 0, mix: -1, dor: -2, min: -3, m: -3, aeo: -3, phr: -4, loc: -5, lyd: 1 };
const SHARPS = ["F", "C", "G", "D", "A", "E", "B"];
const TOKEN = /"[^"]*"|![^!]*!|\{[^}]*\}|\[[A-Za-z]:[^\]]*\]|(\(\d)|(\|\]|\|\||:?\|:?|::|\[\d)|([<>]+)|(\[)|(\])|(?:(\^{1,2}|_{1,2}|=)?([A-Ga-gzx])([,']*))(\d*)(\/*)(\d*)/g;
const TICKS = 480; // of a quarter in a MIDI file

export const isAbc = (text) => /^X:/m.test(text) && /^K:/m.test(text);

/** Return the accidentals of a key such as "D", "Ador" or "F#m": note letter -> semitones. */
function keyOf(text) {
  const found = /^\s*([A-G])([#b]?)\s*([A-Za-z]*)/.exec(text);
  if (!found) return {};
  const [, note, sign, mode] = found;
  const start = mode === "m" ? "m" : mode.toLowerCase().slice(0, 3);
  const fifths = FIFTHS[note] + (sign === "#" ? 7 : sign === "b" ? -7 : 0) + (MODES[start] ?? 0);
  const letters = fifths > 0 ? SHARPS.slice(0, fifths) : SHARPS.slice().reverse().slice(0, -fifths);
  return Object.fromEntries(letters.map((letter) => [letter, Math.sign(fifths)]));
}

function lengthOf(digits, slashes, below) {
  const under = below ? Number(below) : 2 ** slashes.length;
  return (digits ? Number(digits) : 1) / (slashes ? under : 1);
}

/** Return the notes of the first tune: { pitch (MIDI number), start and length in quarters }, and its title. */
export function parseAbc(text) {
  const lines = text.slice(text.search(/^X:/m)).split("\n");
  const body = lines.findIndex((line) => line.startsWith("K:")) + 1;
  const header = Object.fromEntries(lines.slice(0, body).map((line) => [line[0], line.slice(2).trim()]));
  const [over, under] = (/(\d+)\/(\d+)/.exec(header.M ?? "") ?? [0, 4, 4]).slice(1).map(Number);
  const unit = /1\/(\d+)/.exec(header.L ?? "");
  const quarters = unit ? 4 / Number(unit[1]) : over / under < 0.75 ? 0.25 : 0.5; // of a note without a number
  let key = keyOf(header.K ?? "C");
  let bar = {}; // accidentals since the last bar line
  let [time, repeatFrom, tuplet, tupletLeft, broken, chord] = [0, 0, 1, 0, 0, null];
  const notes = [];
  const end = lines.findIndex((line, index) => index >= body && (line.startsWith("X:") || line.trim() === ""));
  for (const line of lines.slice(body, end < 0 ? undefined : end)) {
    if (/^K:/.test(line)) key = keyOf(line.slice(2));
    if (/^[A-Za-z]:/.test(line) || line.startsWith("%")) continue;
    for (const [, group, barLine, rhythm, open, close, sign, letter, octave, digits, slashes, below] of line.matchAll(TOKEN)) {
      if (group) {
        tupletLeft = Number(group[1]);
        tuplet = ({ 2: 3, 3: 2, 4: 3 }[tupletLeft] ?? tupletLeft - 1) / tupletLeft;
      } else if (barLine) {
        bar = {};
        if (barLine.startsWith(":") && time > repeatFrom) {
          const again = notes.filter((note) => note.start >= repeatFrom - 1e-9);
          notes.push(...again.map((note) => ({ ...note, start: note.start + time - repeatFrom })));
          time += time - repeatFrom;
          repeatFrom = time;
        }
        if (barLine.endsWith(":") || barLine === "||") repeatFrom = time;
      } else if (rhythm && notes.length) {
        const factor = 2 ** -rhythm.length;
        broken = rhythm.startsWith(">") ? factor : 2 - factor;
        const last = notes.at(-1);
        const change = last.length * (rhythm.startsWith(">") ? 1 - factor : factor - 1);
        last.length += change;
        time += change;
      } else if (open) {
        chord = 0;
      } else if (close) {
        time += chord ?? 0;
        chord = null;
      } else if (letter) {
        const length = quarters * lengthOf(digits, slashes, below) * (tupletLeft > 0 ? tuplet : 1) * (broken || 1);
        broken = 0;
        if (letter !== "z" && letter !== "x") {
          const name = letter.toUpperCase();
          const marks = octave.split("'").length - octave.split(",").length;
          if (sign) bar[name] = { "^": 1, "^^": 2, "_": -1, "__": -2, "=": 0 }[sign];
          const pitch = 60 + NATURAL[name] + (letter === name ? 0 : 12) + 12 * marks + (bar[name] ?? key[name] ?? 0);
          notes.push({ pitch, start: time, length });
        }
        if (chord === null) {
          time += length;
          if (tupletLeft > 0) tupletLeft -= 1;
        } else {
          chord = Math.max(chord, length);
        }
      }
    }
  }
  return { title: header.T ?? "Tune", notes: notes.sort((a, b) => a.start - b.start), length: time };
}

/** Return a standard MIDI file of format 0 (Complete MIDI 1.0 Detailed Specification). */
export function midiFile({ notes }, tempo) {
  const bytes = (value, count) => Array.from({ length: count }, (_, index) => (value >> (8 * (count - 1 - index))) & 255);
  const variable = (value) => {
    const found = [value & 127];
    for (let rest = value >> 7; rest; rest >>= 7) found.unshift((rest & 127) | 128);
    return found;
  };
  const events = notes.flatMap(({ pitch, start, length }) => [
    { at: Math.round(TICKS * start), data: [0x90, pitch, 80] },
    { at: Math.round(TICKS * (start + length)), data: [0x80, pitch, 0] },
  ]).sort((a, b) => a.at - b.at || a.data[0] - b.data[0]);
  let now = 0;
  const track = [0, 0xff, 0x51, 3, ...bytes(Math.round(6e7 / tempo), 3)];
  for (const { at, data } of events) {
    track.push(...variable(at - now), ...data);
    now = at;
  }
  track.push(0, 0xff, 0x2f, 0);
  const text = (letters) => [...letters].map((letter) => letter.charCodeAt(0));
  return new Uint8Array([...text("MThd"), ...bytes(6, 4), ...bytes(0, 2), ...bytes(1, 2), ...bytes(TICKS, 2),
    ...text("MTrk"), ...bytes(track.length, 4), ...track]);
}

function roll({ notes, length, title }) {
  const pitches = notes.map((note) => note.pitch);
  const [low, high] = [Math.min(...pitches) - 1, Math.max(...pitches) + 1];
  const [width, height] = [720, 6 * (high - low)];
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart roll",
    "aria-label": `${notes.length} notes of “${title}”, higher notes further up` },
  notes.map((note) => svg("rect", { x: (width * note.start) / length, y: 6 * (high - note.pitch) - 3,
    width: Math.max(2, (width * note.length) / length - 1), height: 5, rx: 2 })));
}

let stopPlaying = null;

/** Stop the tune that plays, if there is one. */
export const silence = () => stopPlaying?.();

/** Play notes until their end, or until `silence` is called; then call `onEnd`. */
function play(notes, tempo, onEnd) {
  silence();
  const context = new AudioContext();
  const start = context.currentTime + 0.1;
  for (const { pitch, start: at, length } of notes) {
    const [from, to] = [start + (60 * at) / tempo, start + (60 * (at + length)) / tempo];
    const tone = new OscillatorNode(context, { type: "triangle", frequency: 440 * 2 ** ((pitch - 69) / 12) });
    const loudness = new GainNode(context, { gain: 0 });
    loudness.gain.setValueAtTime(0, from);
    loudness.gain.linearRampToValueAtTime(0.25, from + 0.015);
    loudness.gain.exponentialRampToValueAtTime(0.001, to);
    tone.connect(loudness).connect(context.destination);
    tone.start(from);
    tone.stop(to);
  }
  const last = notes.at(-1);
  const stop = () => {
    clearTimeout(timer);
    context.close();
    stopPlaying = null;
    onEnd();
  };
  const timer = setTimeout(stop, 1000 * ((60 * (last.start + last.length)) / tempo + 0.3));
  stopPlaying = stop;
}

/** Return a picture of the tune with buttons to play and to download it. */
export function player(abc, tempo = 160) {
  const tune = parseAbc(abc);
  if (tune.notes.length === 0) return el("p", null, "There are no notes in this tune yet.");
  let playing = false;
  const show = (plays) => {
    playing = plays;
    button.textContent = plays ? "Stop the tune" : "Play the tune";
  };
  const button = el("button", { type: "button", onclick: () => {
    if (playing) return silence();
    play(tune.notes, tempo, () => show(false));
    show(true);
  } }, "Play the tune");
  const save = el("button", { type: "button", class: "quiet", onclick: () => {
    const url = URL.createObjectURL(new Blob([midiFile(tune, tempo)], { type: "audio/midi" }));
    el("a", { href: url, download: "tune.mid" }).click();
    URL.revokeObjectURL(url);
  } }, "Save as MIDI");
  return el("figure", null, roll(tune), el("figcaption", null, button, " ", save));
}
