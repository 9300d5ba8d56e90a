/** Pictures and text files that a person picks, pastes or drops. */
import type { Picture, TextFile } from '../../lib/playground/conversation';
import { fitted, sentAsItIs } from '../../lib/playground/pictures';

const TEXT_BYTES = 256 * 1024;

/** Throws Error that says what is wrong with the file. */
export async function readPicture(file: File): Promise<Picture> {
  const name = file.name || 'picture';
  const address = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = address;
    await image.decode().catch(() => {
      throw new Error(`${name} is not a picture that the browser can read`);
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    if (sentAsItIs(file.type, file.size, width, height)) return { url: await dataUrl(file), name };
    const size = fitted(width || 512, height || 512); // a drawing may have no size of its own
    const canvas = Object.assign(document.createElement('canvas'), size);
    const context = canvas.getContext('2d');
    if (!context) throw new Error('the browser does not let this page make the picture smaller');
    context.fillStyle = '#fff'; // JPEG has no transparency
    context.fillRect(0, 0, size.width, size.height);
    context.drawImage(image, 0, 0, size.width, size.height);
    return { url: canvas.toDataURL('image/jpeg', 0.9), name };
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Throws Error that says what is wrong with the file. */
export async function readTextFile(file: File): Promise<TextFile> {
  if (file.size > TEXT_BYTES) throw new Error(`${file.name} is larger than ${TEXT_BYTES / 1024} KiB`);
  try {
    return { name: file.name, text: new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer()) };
  } catch {
    throw new Error(`${file.name} is neither a picture nor text`);
  }
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

/** Have the browser save something under a name. */
export function save(name: string, content: Blob): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
