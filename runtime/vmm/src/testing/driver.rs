//! The part of a guest's driver, without a guest: registers and rings, as hostile as a test wants them.
