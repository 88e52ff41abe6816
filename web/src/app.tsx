// SPDX-License-Identifier: MIT
// The page as a whole.
import { useEffect } from "preact/hooks";
import { announcement } from "./announce";
import * as chats from "./chats";
import { Composer } from "./components/composer";
import { Icon, IconButton } from "./components/icons";
import { KeyDialog } from "./components/key_dialog";
import { openSettings, SettingsDialog } from "./components/settings";
import { isSidebarOpen, newChat, Sidebar } from "./components/sidebar";
import { Strip } from "./components/strip";
import { Thread } from "./components/thread";
import { model, serverIsGone } from "./server";
import { hideToast, holdToast, letToastGo, toast } from "./toast";

function Header() {
  return (
    <header class="top">
      <button
        type="button"
        class="icon-button only-narrow"
        aria-label="Conversations"
        aria-controls="sidebar"
        aria-expanded={isSidebarOpen.value}
        onClick={() => (isSidebarOpen.value = true)}
      >
        <Icon name="menu" />
      </button>
      <div class="heading">
        <h1 class="title" dir="auto">
          {chats.current.value?.title ?? "New chat"}
        </h1>
        {model.value && <p class="model">{model.value.id}</p>}
      </div>
      <IconButton icon="plus" label="New chat" class="only-narrow" onClick={newChat} />
      <IconButton icon="sliders" label="Settings" onClick={openSettings} />
    </header>
  );
}

function ToastView() {
  const message = toast.value;
  return (
    <div class="toasts" role="status">
      {message && (
        <div
          class="toast"
          onMouseEnter={holdToast}
          onMouseLeave={letToastGo}
          onFocusIn={holdToast}
          onFocusOut={letToastGo}
        >
          <span>{message.text}</span>
          {message.action && (
            <button
              type="button"
              onClick={() => {
                message.action!.run();
                hideToast();
              }}
            >
              {message.action.label}
            </button>
          )}
          <IconButton icon="close" label="Dismiss" onClick={hideToast} />
        </div>
      )}
    </div>
  );
}

function onKeyDown(event: KeyboardEvent) {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (isSidebarOpen.value) isSidebarOpen.value = false;
    else chats.stop();
  }
  if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    newChat();
  }
}

export function App() {
  useEffect(() => {
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, []);
  return (
    <>
      <Sidebar />
      <main>
        <Header />
        {serverIsGone.value && (
          <p class="banner" role="alert">
            The server does not answer. The page goes on as soon as it is back.
          </p>
        )}
        <Thread />
        <footer class="bottom">
          <Strip />
          <Composer />
        </footer>
      </main>
      <SettingsDialog />
      <KeyDialog />
      <ToastView />
      <div class="visually-hidden" role="status" aria-atomic="true">
        {announcement}
      </div>
    </>
  );
}
