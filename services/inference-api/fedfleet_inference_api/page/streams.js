"use strict";

// Reads answers that go on: pictures (Motion JPEG) and events (Server-Sent Events). They are
// fetched, not linked: so the key goes in a header, and no address holds it.

class Bytes {
  constructor(body) {
    this.reader = body.getReader();
    this.held = new Uint8Array(0);
  }

  async more() {
    const { value, done } = await this.reader.read();
    if (done) return false;
    const joined = new Uint8Array(this.held.length + value.length);
    joined.set(this.held);
    joined.set(value, this.held.length);
    this.held = joined;
    return true;
  }

  // The next count bytes, null at the end.
  async take(count) {
    while (this.held.length < count) if (!await this.more()) return null;
    const taken = this.held.slice(0, count);
    this.held = this.held.subarray(count);
    return taken;
  }

  // The next line without its end, null at the end.
  async line() {
    for (let from = 0; ;) {
      const end = this.held.indexOf(10, from);
      if (end >= 0) {
        const text = new TextDecoder().decode(this.held.subarray(0, end));
        this.held = this.held.subarray(end + 1);
        return text.replace(/\r$/, "");
      }
      from = this.held.length;
      if (!await this.more()) return null;
    }
  }
}

// Each picture as a Blob.
async function* pictures(response) {
  const bytes = new Bytes(response.body);
  for (let size = 0; ;) {
    const line = await bytes.line();
    if (line === null) return;
    const length = /^content-length: *(\d+)$/i.exec(line);
    if (length) size = Number(length[1]);
    if (line === "" && size) { // the end of a part's headers
      const picture = await bytes.take(size);
      if (picture === null) return;
      size = 0;
      yield new Blob([picture], { type: "image/jpeg" });
    }
  }
}

// The data of each event, parsed.
async function* events(response) {
  const bytes = new Bytes(response.body);
  for (let data = ""; ;) {
    const line = await bytes.line();
    if (line === null) return;
    if (line.startsWith("data: ")) data += line.slice(6);
    if (line === "" && data) {
      yield JSON.parse(data);
      data = "";
    }
  }
}
