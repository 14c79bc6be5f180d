//! Files that appear under their name only when they are whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file being written beside its final name; dropped unfinished, it is removed.
pub(crate) struct AtomicFile {
    file: Option<BufWriter<File>>,
    part: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    pub fn create(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::bad("the output path", path.display(), "the name of a file to write"))?;
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".part-{}", std::process::id()));
        let part = path.with_file_name(part);
        let file = File::create(&part).map_err(Error::io(&part))?;
        Ok(AtomicFile { file: Some(BufWriter::with_capacity(1 << 20, file)), part, path: path.into() })
    }

    /// Replaces the first bytes, which must have been written before.
    pub fn rewrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let done = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes));
        done.and_then(|()| file.seek(SeekFrom::End(0))).map(|_| ()).map_err(Error::io(&self.part))
    }

    /// Makes the file durable and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let done = file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|f| f.sync_all())
            .and_then(|()| fs::rename(&self.part, &self.path));
        done.map_err(|e| {
            // Nothing better can be done about a failed removal than to leave the part file.
            let _ = fs::remove_file(&self.part);
            Error::io(&self.path)(e)
        })
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.as_mut().map_or(Ok(0), |f| f.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.part);
        }
    }
}
