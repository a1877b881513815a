//! vfu-devices
