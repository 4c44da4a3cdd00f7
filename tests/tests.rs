//! The promises, each as a test. One binary: it links once, and runs its tests in parallel.

mod demo;
mod deploy;
mod e2e;
mod kernels;
mod netns;
mod protocol;
mod sim;
mod tidy;
mod yesterday;
