"""The live server: REST, WebSocket and WebRTC over the same sessions."""
