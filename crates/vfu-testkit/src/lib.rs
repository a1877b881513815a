//! vfu-testkit
