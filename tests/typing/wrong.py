"""Mistakes that a type checker must find: if the package lost its types, these would pass."""

from crux_sync import Event, Gateway

gateway = Gateway("token")
gateway.close(timeout="soon")
number: int = gateway.subscribe("MESSAGE_CREATE").get()
Event.create(5, {})
gateway.no_such_method()
