// SPDX-License-Identifier: MIT
import { render } from "preact";
import { App } from "./app";
import * as chats from "./chats";
import { greet } from "./server";
import * as store from "./store";
import { showToast } from "./toast";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/message.css";
import "./styles/code.css";

async function start() {
  await Promise.all([chats.refresh(), chats.showFromAddress()]);
  render(<App />, document.getElementById("app")!);
  window.addEventListener("popstate", () => void chats.showFromAddress());
  if (!(await store.isLasting())) {
    showToast({ text: "This browser does not keep data: conversations end with the tab." });
  }
  await greet();
}

void start();
