//! The edge proxy's machine: where the service begins.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

/// Where libos begins the service.
// SAFETY: the name is unique in the image, and libos declares it with this signature.
#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "the one name by which libos calls the application")]
#[unsafe(no_mangle)]
fn service(machine: libos::machine::Machine) -> ! {
    edge_proxy::server::run(machine)
}

/// On the host there is no machine to be.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("edge-proxy: error: this program is a machine's only one");
    eprintln!("hint: cargo xtask run edge-proxy --config tests/configs/demo.toml");
    std::process::ExitCode::from(2)
}
