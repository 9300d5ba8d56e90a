/** How large a picture is sent. */

/** Longest side in pixels: what vision models look at is smaller still. */
export const LONGEST = 1536;

/** Width and height that fit, in proportion; never enlarged. */
export function fitted(width: number, height: number, longest = LONGEST): { width: number; height: number } {
  const scale = Math.min(1, longest / Math.max(width, height, 1));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/**
 * Whether the file can be sent as it is: small enough, and in a format that every server reads (llama.cpp does not read
 * WebP or AVIF).
 */
export function sentAsItIs(type: string, bytes: number, width: number, height: number): boolean {
  return (type === 'image/jpeg' || type === 'image/png') && bytes <= 1_500_000 && Math.max(width, height) <= LONGEST;
}
