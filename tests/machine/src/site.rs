//! What stands behind a proxy: a real web server.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{self, Process};
use crate::{Error, body, qemu};

/// The name on the certificate in `tests/configs`.
pub const NAME: &str = "sealed.test";

/// How long nginx may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// No run of tests takes longer.
const LIFETIME: Duration = Duration::from_secs(4 * 3600);

/// A real nginx on loopback, with a folder of its own, serving files and taking uploads.
#[derive(Debug)]
pub struct Nginx {
    // Dropped first, so that nobody uses the folder when it goes.
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Starts nginx with a file `N` of N bytes for each of `sizes`; uploads go to `/upload/`.
    ///
    /// # Errors
    ///
    /// [`Error`] if nginx is missing or does not come up.
    pub fn start(sizes: &[usize]) -> Result<Self, Error> {
        let folder =
            TempDir::with_prefix("bulla-nginx-").map_err(Error::file(Path::new("/tmp")))?;
        let address = qemu::free_port()?;
        let files = folder.path().join("files");
        let upload = files.join("upload");
        fs::create_dir_all(&upload).map_err(Error::file(&upload))?;
        for &size in sizes {
            let file = files.join(size.to_string());
            fs::write(&file, body::bytes(size)).map_err(Error::file(&file))?;
        }
        let configuration = folder.path().join("nginx.conf");
        let text = configuration_for(folder.path(), address);
        fs::write(&configuration, text).map_err(Error::file(&configuration))?;
        let mut command = process::tied("nginx");
        command.arg("-e").arg(folder.path().join("error.log")).arg("-p").arg(folder.path());
        command.arg("-c").arg(&configuration).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = Self { process: Process::start(command, LIFETIME)?, address, folder };
        nginx.wait_until_it_listens()?;
        Ok(nginx)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder whose files it serves.
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    fn wait_until_it_listens(&self) -> Result<(), Error> {
        let end = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(self.address).is_err() {
            if self.process.ended().is_some() || Instant::now() > end {
                let log = fs::read_to_string(self.folder.path().join("error.log"));
                let source = std::io::Error::other(log.unwrap_or_default());
                return Err(Error::Start { program: "nginx".to_owned(), source });
            }
            process::check_interrupt()?;
            thread::sleep(process::POLL);
        }
        Ok(())
    }
}

/// One process in the foreground, because children of a master would not die with us.
fn configuration_for(folder: &Path, address: SocketAddr) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {name};\n"))
        .concat();
    // The worker runs as whoever we are; only root has to say so.
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log;\n\
         worker_rlimit_nofile 8192;\nevents {{ worker_connections 4096; }}\n\
         http {{\n{temporary}    access_log off;\n    sendfile on;\n    keepalive_requests 1000000;\n    \
         client_max_body_size 2g;\n    default_type application/octet-stream;\n    \
         server {{\n        listen {address} backlog=4096;\n        root {}/files;\n        \
         location /upload/ {{ dav_methods PUT; }}\n    }}\n}}\n",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn curl(arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("curl").args(["-sS", "-m", "20"]).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn nginx_serves_and_takes_files_and_dies_with_its_handle() {
        let nginx = Nginx::start(&[1024]).unwrap();
        let address = nginx.address();
        assert_eq!(curl(&[&format!("http://{address}/1024")]), body::bytes(1024));
        let sent = nginx.files().join("1024");
        curl(&["-T", sent.to_str().unwrap(), &format!("http://{address}/upload/x")]);
        assert_eq!(fs::read(nginx.files().join("upload/x")).unwrap(), body::bytes(1024));
        drop(nginx);
        assert!(TcpStream::connect(address).is_err());
    }
}
