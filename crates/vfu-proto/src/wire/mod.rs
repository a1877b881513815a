//! Messages as typed views over bytes.
