//! The two outputs of the flow log.
//!
//! Input: bytes. Output: a file that follows its path, or standard output.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::rotate::{Rotation, put_aside};

/// Takes bytes.
pub(super) trait Output: Write + Send {
    /// Makes sure that the next bytes go where they should. True: that is another place than before, and it starts with
    /// a new line. `between_lines`: the next bytes begin a line.
    fn ready(&mut self, between_lines: bool) -> io::Result<bool>;
}

/// Standard output, unbuffered.
pub(super) struct StdoutOutput(File);

impl StdoutOutput {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Write for StdoutOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for StdoutOutput {
    fn ready(&mut self, _: bool) -> io::Result<bool> {
        Ok(false)
    }
}

/// A file that is appended to, and opened anew when its path leads elsewhere.
pub(super) struct FileOutput {
    path: PathBuf,
    rotation: Option<Rotation>,
    /// The file could not be put aside the last time.
    is_stuck: bool,
    file: Option<File>,
}

impl FileOutput {
    /// Opens the file. An error that time may heal is kept for later.
    pub(super) fn new(path: PathBuf, rotation: Option<Rotation>) -> io::Result<Self> {
        let mut output = Self { path, rotation, is_stuck: false, file: None };
        match output.open() {
            Ok(()) => Ok(output),
            Err(error) if heals(&error) => Ok(output),
            Err(error) => Err(error),
        }
    }

    fn open(&mut self) -> io::Result<()> {
        self.file = None;
        // Read, to see whether the last line is whole. A pipe without a reader must not stop the daemon here.
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A run that was killed left half a line.
                file.write_all(b"\n")?;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Puts the open file aside if it is large enough. If that fails, the log goes on in the same file: a log that is too
    /// large is better than none.
    fn was_put_aside(&mut self) -> bool {
        let (Some(rotation), Some(file)) = (self.rotation, &self.file) else { return false };
        let is_large = |found: &Metadata| found.is_file() && found.len() >= rotation.bytes;
        if !file.metadata().is_ok_and(|found| is_large(&found)) {
            return false;
        }
        match put_aside(&self.path, rotation.kept) {
            Ok(()) => {
                self.is_stuck = false;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_stuck, true) {
                    tracing::warn!(%error, "cannot put the full flow log aside; going on in the same file, and trying again");
                }
                false
            }
        }
    }

    /// Whether the path still leads to the open file.
    fn in_place(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(&self.path)) else {
            return false;
        };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }
}

/// Whether waiting may help: not with a path that leads nowhere.
fn heals(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StaleNetworkFileHandle
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
    ) || matches!(error.raw_os_error(), Some(libc::EIO | libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

impl Write for FileOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for FileOutput {
    fn ready(&mut self, between_lines: bool) -> io::Result<bool> {
        if self.in_place() && !(between_lines && self.was_put_aside()) {
            return Ok(false);
        }
        self.open()?;
        Ok(true)
    }
}
