/** Answers of /v1/embeddings and /v1/rerank, from any server that speaks them. */
import { isObject } from '../shape';

/** 1: same direction, 0: nothing in common, -1: opposite. null if it cannot be said (lengths differ, a vector of zeros). */
export function cosine(a: readonly number[], b: readonly number[]): number | null {
  if (!a.length || a.length !== b.length) return null;
  let [dot, squareA, squareB] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    const [x, y] = [a[i] as number, b[i] as number];
    dot += x * y;
    squareA += x * x;
    squareB += y * y;
  }
  const size = Math.sqrt(squareA) * Math.sqrt(squareB);
  return size > 0 && Number.isFinite(size) ? Math.min(1, Math.max(-1, dot / size)) : null;
}

/** The vectors in the order of the texts. Throws Error that says what is missing. */
export function readEmbeddings(answer: unknown, count: number): number[][] {
  const data: unknown = isObject(answer) ? answer.data : undefined;
  if (!Array.isArray(data)) throw new Error('the answer has no list "data": the model may not make embeddings');
  const vectors: number[][] = [];
  for (const [position, entry] of (data as unknown[]).entries()) {
    if (!isObject(entry)) continue;
    const index = typeof entry.index === 'number' ? entry.index : position;
    const given: unknown = entry.embedding;
    if (typeof given === 'string') vectors[index] = fromBase64(given);
    else if (Array.isArray(given) && given.every((x) => typeof x === 'number')) vectors[index] = given as number[];
    else throw new Error('an embedding is not a list of numbers: the server gives one vector per token; start it with pooling');
  }
  for (let i = 0; i < count; i += 1) if (!vectors[i]) throw new Error(`the answer has ${data.length} of ${count} embeddings`);
  return vectors.slice(0, count);
}

/** Little-endian float32, as `encoding_format: base64` gives them. */
function fromBase64(text: string): number[] {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: Math.floor(bytes.length / 4) }, (_, i) => view.getFloat32(i * 4, true));
}

export interface Ranked {
  index: number;
  score: number;
  /** Of the way from the lowest to the highest score, for a bar: 0 to 1. */
  share: number;
}

/** Documents by falling score. Jina's and llama.cpp's form (`results`), Cohere's alike, TEI's a bare list. */
export function readRanking(answer: unknown, count: number): Ranked[] {
  const list: unknown = Array.isArray(answer) ? answer : isObject(answer) ? (answer.results ?? answer.data) : undefined;
  if (!Array.isArray(list)) throw new Error('the answer has no list "results": the model may not rerank');
  const found = (list as unknown[]).flatMap((entry) => {
    if (!isObject(entry)) return [];
    const score = entry.relevance_score ?? entry.score;
    return typeof entry.index === 'number' && typeof score === 'number' && entry.index < count ? [{ index: entry.index, score }] : [];
  });
  if (!found.length) throw new Error('the answer has no scores');
  found.sort((a, b) => b.score - a.score || a.index - b.index);
  const scores = found.map(({ score }) => score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  // Scores are probabilities with some models and logits with others.
  const probable = low >= 0 && high <= 1;
  return found.map(({ index, score }) => ({ index, score, share: probable ? score : high > low ? (score - low) / (high - low) : 1 }));
}
