//! What the parts of the program tell one another.

use std::path::PathBuf;

/// One client's scenarios for one runtime.
#[derive(Clone, Debug)]
pub struct Job {
    /// Place in `clients::ALL`.
    pub client: usize,
    /// Places in the client's list of scenarios.
    pub scenarios: Vec<usize>,
    /// The program under test.
    pub runtime: PathBuf,
    /// The shim under test, if any; else containerd's own calls the runtime.
    pub shim: Option<PathBuf>,
    /// Where daemons and clients are that go before the machine's, if any.
    pub programs: Option<PathBuf>,
    /// The job's directory, empty.
    pub dir: PathBuf,
    /// Where the images are.
    pub images: PathBuf,
    /// A word in the names of everything that this job makes.
    pub word: String,
    /// How many times as slow as usual the machine is.
    pub slow: u32,
}

impl Job {
    /// The arguments that `parse` reads.
    pub fn words(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| match path {
            Some(path) => path.display().to_string(),
            None => String::new(),
        };
        let indices: Vec<String> = self.scenarios.iter().map(usize::to_string).collect();
        vec![
            self.client.to_string(),
            indices.join(","),
            self.runtime.display().to_string(),
            path(&self.shim),
            path(&self.programs),
            self.dir.display().to_string(),
            self.images.display().to_string(),
            self.word.clone(),
            self.slow.to_string(),
        ]
    }

    /// The inverse of `words`.
    pub fn parse(words: &[String]) -> Option<Self> {
        let [client, indices, runtime, shim, programs, dir, images, word, slow] = words else {
            return None;
        };
        let path = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
        let scenarios = indices.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self {
            client: client.parse().ok()?,
            scenarios,
            runtime: runtime.into(),
            shim: path(shim),
            programs: path(programs),
            dir: dir.into(),
            images: images.into(),
            word: word.clone(),
            slow: slow.parse().ok()?,
        })
    }
}
