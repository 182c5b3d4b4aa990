"""A tkinter window: no worker threads; the window's own loop calls the callbacks with ``poll``."""

import os
import tkinter

from crux_sync import Gateway

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

EVERY = 50  # milliseconds

gateway = Gateway(api_url=API, workers=0)
window = tkinter.Tk()
window.title("crux_sync")
label = tkinter.Label(window, text="connecting", width=50, height=4)
label.pack()


@gateway.on("SHARD_READY")
def ready(event):
    label.config(text=f"shard {event.shard_id} is ready")
    print(label.cget("text"), flush=True)


@gateway.on("TYPING_START")
def typing(event):
    label.config(text=f"somebody types in {event.data['channel_id']}")


def poll():
    gateway.poll(max_events=100)
    window.after(EVERY, poll)


def leave():
    gateway.close()
    window.destroy()


if __name__ == "__main__":
    window.protocol("WM_DELETE_WINDOW", leave)
    gateway.start()
    window.after(EVERY, poll)
    window.mainloop()
