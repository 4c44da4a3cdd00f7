use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files that are looked at, and how they were when they were last read.
#[derive(Debug)]
pub struct Watch {
    /// The configuration itself.
    config: PathBuf,
    files: Vec<(PathBuf, Mark)>,
    /// What the look before found, where that was a change.
    changed: Option<Vec<Mark>>,
}

/// What tells one state of a file from another; `None` where there is no file. The change time is
/// part of it, since a file may be written without a new time of modification, and may become readable.
type Mark = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl Watch {
    /// `files` are those that the configuration names.
    pub fn new(config: &Path, files: &[&Path]) -> Self {
        let mut watch = Self { config: config.to_owned(), files: Vec::new(), changed: None };
        watch.follow(files);
        watch
    }

    /// Looks at these from now on, and at the configuration. To be called before they are read: a file
    /// that changes meanwhile is then found changed.
    pub fn follow(&mut self, files: &[&Path]) {
        let config = self.config.clone();
        let known = |path: &Path| self.files.iter().find(|(known, _)| known == path);
        let marked = |path: &Path| {
            let mark = known(path).map_or_else(|| mark(path), |(_, mark)| *mark);
            (path.to_owned(), mark)
        };
        self.files = std::iter::once(&*config).chain(files.iter().copied()).map(marked).collect();
    }

    /// Whether something has changed since [`Watch::note`], and the last look found it just so.
    pub(super) fn look(&mut self) -> bool {
        let found = self.marks();
        if self.files.iter().map(|(_, mark)| mark).eq(&found) {
            self.changed = None;
            return false;
        }
        let settled = self.changed.as_ref() == Some(&found);
        self.changed = Some(found);
        settled
    }

    /// Takes the files as they are for known, before they are read.
    pub(super) fn note(&mut self) {
        let found = self.marks();
        for ((_, mark), found) in self.files.iter_mut().zip(found) {
            *mark = found;
        }
        self.changed = None;
    }

    fn marks(&self) -> Vec<Mark> {
        self.files.iter().map(|(path, _)| mark(path)).collect()
    }
}

/// Follows links: of the file at their end.
fn mark(path: &Path) -> Mark {
    let found = std::fs::metadata(path).ok()?;
    let (modified, changed) =
        ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    Some((found.dev(), found.ino(), found.size(), modified, changed))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A configuration and one certificate, as they were read.
    struct Trial {
        folder: tempfile::TempDir,
        watch: Watch,
    }

    impl Trial {
        fn new(certificate: impl FnOnce(&Path) -> PathBuf) -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let config = folder.path().join("gateway.toml");
            fs::write(&config, "first").expect("the folder is writable");
            let certificate = certificate(folder.path());
            let mut watch = Watch::new(&config, &[&certificate]);
            assert!(!watch.look() && !watch.look(), "nothing has changed");
            Self { folder, watch }
        }

        fn write(&self, name: &str, contents: &str) {
            fs::write(self.folder.path().join(name), contents).expect("the folder is writable");
        }

        /// Two looks find it, and no third once it is noted.
        fn assert_found(&mut self) {
            assert!(!self.watch.look(), "the first look does not trust it");
            assert!(self.watch.look());
            self.watch.note();
            assert!(!self.watch.look() && !self.watch.look());
        }
    }

    fn plain(folder: &Path) -> PathBuf {
        let path = folder.join("gw.crt");
        fs::write(&path, "old").expect("the folder is writable");
        path
    }

    #[test]
    fn a_file_that_was_written_or_replaced_is_found() {
        let mut trial = Trial::new(plain);
        trial.write("gw.crt", "longer");
        trial.assert_found();
        trial.write("gw.crt.new", "longer");
        let path = |name| trial.folder.path().join(name);
        fs::rename(path("gw.crt.new"), path("gw.crt")).expect("replaced");
        trial.assert_found();
        trial.write("gateway.toml", "the second");
        trial.assert_found();
    }

    #[test]
    fn a_file_that_changes_between_two_looks_is_not_trusted_yet() {
        let mut trial = Trial::new(plain);
        trial.write("gw.crt", "half");
        assert!(!trial.watch.look());
        trial.write("gw.crt", "half and more");
        assert!(!trial.watch.look());
        assert!(trial.watch.look());
    }

    #[test]
    fn a_swapped_link_is_found_wherever_it_is_on_the_way() {
        // As Kubernetes mounts secrets: gw.crt -> ..data/gw.crt, and ..data -> a folder with the time.
        let mut trial = Trial::new(|folder| {
            for version in ["v1", "v2"] {
                fs::create_dir(folder.join(version)).expect("a new folder");
                fs::write(folder.join(version).join("gw.crt"), version).expect("writable");
            }
            symlink("v1", folder.join("..data")).expect("a new link");
            symlink("..data/gw.crt", folder.join("gw.crt")).expect("a new link");
            folder.join("gw.crt")
        });
        let path = |name| trial.folder.path().join(name);
        symlink("v2", path("..data_new")).expect("a new link");
        fs::rename(path("..data_new"), path("..data")).expect("swapped");
        trial.assert_found();
    }

    #[test]
    fn a_file_that_goes_or_comes_is_found() {
        let mut trial = Trial::new(plain);
        fs::remove_file(trial.folder.path().join("gw.crt")).expect("it was there");
        trial.assert_found();
        trial.write("gw.crt", "new");
        trial.assert_found();
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_found_afterwards() {
        let mut trial = Trial::new(plain);
        trial.write("gw.crt", "second");
        trial.watch.note();
        trial.write("gw.crt", "the third");
        let path = trial.folder.path().join("gw.crt");
        trial.watch.follow(&[&path]);
        trial.assert_found();
    }
}
