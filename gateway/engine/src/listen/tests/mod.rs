//! Connections over real sockets, in one process.
