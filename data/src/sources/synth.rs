//! `synth`: ten silhouettes, drawn on demand, for a first run with no network and no files.
//!
//! Size, place, rotation, slant, colors and textures of figure and ground, scattered blots, a bar across the figure
//! and noise are nuisances; the outline alone is the class. So few labels do not show the range of a class, and
//! pictures without labels do.
//!
//! The pictures depend on their number and size alone, not on a run's seed: results of several seeds are of one set.
//! `synth:TRAIN/TEST` sets how many there are.

use crate::{
    DataError, Dataset, PictureShape, Result, Split, parallel,
    random::Stream,
    sources::{OpenOptions, Place, Source},
};

/// Its name.
pub const NAME: &str = "synth";

/// The registry's line.
pub const SOURCE: Source = Source {
    name: NAME,
    about: "built in: ten procedural silhouettes, 32x32 RGB; `synth:TRAIN/TEST` sets how many pictures",
    place: Place::BuiltIn(make),
};

/// Training and test pictures unless told otherwise.
pub const DEFAULT_COUNTS: (usize, usize) = (5000, 2000);

const DEFAULT_SIZE: usize = 32;

/// An outline: how far inside the figure a point lies, negative outside, in units of the figure's radius.
type Outline = fn(Point) -> f32;

const FIGURES: [(&str, Outline); 10] = [
    ("disc", disc),
    ("ring", ring),
    ("square", square),
    ("triangle", triangle),
    ("star", star),
    ("cross", cross),
    ("crescent", crescent),
    ("heart", heart),
    ("arrow", arrow),
    ("bars", bars),
];

fn make(argument: &str, options: &OpenOptions) -> Result<Dataset> {
    let (train, test) = counts(argument)?;
    let size = options.image_size.unwrap_or(DEFAULT_SIZE);
    let shape = PictureShape { channels: options.channels.unwrap_or(3), height: size, width: size };
    crate::memory::check(train + test, shape, options.memory_limit)?;
    Ok(Dataset {
        name: NAME.into(),
        classes: FIGURES.iter().map(|(name, _)| name.to_string()).collect(),
        shape,
        train: split(0, train, shape, options.threads()),
        val: Split::default(),
        test: split(1, test, shape, options.threads()),
        notes: Vec::new(),
    })
}

fn counts(argument: &str) -> Result<(usize, usize)> {
    if argument.is_empty() {
        return Ok(DEFAULT_COUNTS);
    }
    let read = |text: &str| text.parse::<usize>().ok().filter(|&count| count >= FIGURES.len());
    let both = argument.split_once('/').and_then(|(train, test)| Some((read(train)?, read(test)?)));
    both.ok_or_else(|| DataError::BadOption {
        option: "--data",
        given: format!("{NAME}:{argument}"),
        reason: "not two numbers of at least 10".into(),
        expected: "synth, or synth:TRAIN/TEST as in synth:5000/2000",
    })
}

/// Pictures of one part: picture `n` shows figure `n % 10`.
fn split(part: u64, count: usize, shape: PictureShape, threads: usize) -> Split {
    let mut pixels = vec![0; count * shape.bytes()];
    let mut pictures: Vec<&mut [u8]> = pixels.chunks_exact_mut(shape.bytes().max(1)).collect();
    parallel::runs(&mut pictures, threads, Vec::new, |rgb: &mut Vec<u8>, index, out| {
        let mut random = Stream::new(&[STREAM, part, index as u64]);
        rgb.resize(shape.height * shape.width * 3, 0);
        draw(FIGURES[index % FIGURES.len()].1, shape.width, &mut random, rgb);
        match shape.channels {
            3 => out.copy_from_slice(rgb),
            _ => out.copy_from_slice(&picture::convert(rgb, 3, 1)),
        }
    });
    Split { pixels, labels: (0..count).map(|index| Some((index % FIGURES.len()) as u32)).collect() }
}

/// Name of the random streams of this file.
const STREAM: u64 = 31;

/// How hard it is; lengths in pixels of a 32 pixel picture. Chosen so that 500 labels and 300 steps of a two-layer
/// convolutional network end near 80 %.
const RADIUS: (f32, f32) = (9.0, 13.0);
const OFFSET: f32 = 3.0;
const SLANT: f32 = 0.15;
/// Tangent of half the largest rotation: 30 degrees either way.
const HALF_TURN: f32 = 0.267_949_2;
const STRIPES_CHANCE: f32 = 0.3;
const TEXTURE_CONTRAST: f32 = 50.0;
const BLOTS: usize = 3;
const BLOT_RADIUS: (f32, f32) = (1.0, 2.5);
const BAR_CHANCE: f32 = 0.2;
const BAR_WIDTH: (f32, f32) = (0.5, 1.2);
const NOISE: (f32, f32) = (4.0, 14.0);
const LEAST_CONTRAST: f32 = 70.0;

type Point = [f32; 2];
type Color = [f32; 3];

/// Draws one picture, `[size, size, 3]`.
fn draw(figure: Outline, size: usize, random: &mut Stream, rgb: &mut [u8]) {
    let scene = Scene::new(random);
    let scale = 32.0 / size as f32;
    for (index, pixel) in rgb.chunks_exact_mut(3).enumerate() {
        let place = [(index % size) as f32, (index / size) as f32].map(|at| (at + 0.5) * scale - 16.0);
        let color = scene.color(place, figure, scale);
        for (value, level) in pixel.iter_mut().zip(color) {
            *value = (level + random.noise() * scene.noise) as u8; // the cast saturates
        }
    }
}

/// Everything about a picture but its figure. Places are in pixels of a 32 pixel picture, from its center.
struct Scene {
    ground: Texture,
    fill: Texture,
    frame: Frame,
    blots: Vec<(Point, f32, Color)>,
    bar: Option<(Point, Point, f32, Color)>,
    noise: f32,
}

impl Scene {
    fn new(random: &mut Stream) -> Self {
        let ground = Texture::new(random);
        let fill = std::iter::repeat_with(|| Texture::new(random))
            .take(20)
            .find(|fill| fill.differs_from(&ground))
            .unwrap_or_else(|| ground.opposite());
        let frame = Frame::new(random);
        let blots = (0..random.below(BLOTS + 1))
            .map(|_| {
                let place = [random.uniform(-16.0, 16.0), random.uniform(-16.0, 16.0)];
                (place, random.uniform(BLOT_RADIUS.0, BLOT_RADIUS.1), color(random))
            })
            .collect();
        let bar = random.chance(BAR_CHANCE).then(|| {
            let middle = frame.center.map(|at| at + random.uniform(-6.0, 6.0));
            (middle, direction(random), random.uniform(BAR_WIDTH.0, BAR_WIDTH.1), color(random))
        });
        Self { ground, fill, frame, blots, bar, noise: random.uniform(NOISE.0, NOISE.1) }
    }

    fn color(&self, place: Point, figure: Outline, pixel: f32) -> Color {
        let inside = figure(self.frame.to_figure(place)) * self.frame.radius;
        let mut color = mix(self.ground.color(place), self.fill.color(place), cover(inside, pixel));
        for &([x, y], radius, blot) in &self.blots {
            let distance = ((place[0] - x).powi(2) + (place[1] - y).powi(2)).sqrt();
            color = mix(color, blot, cover(radius - distance, pixel));
        }
        if let Some((middle, normal, width, bar)) = self.bar {
            let off = ((place[0] - middle[0]) * normal[0] + (place[1] - middle[1]) * normal[1]).abs();
            color = mix(color, bar, cover(width - off, pixel));
        }
        color
    }
}

/// Share of a pixel that lies inside, from how far its center does.
fn cover(inside: f32, pixel: f32) -> f32 {
    (inside / pixel + 0.5).clamp(0.0, 1.0)
}

/// Where the figure is and how it is turned, slanted and scaled.
struct Frame {
    center: Point,
    radius: f32,
    /// Rows of the matrix from the picture's directions to the figure's.
    rows: [Point; 2],
}

impl Frame {
    fn new(random: &mut Stream) -> Self {
        let [cos, sin] = turn(random.uniform(-HALF_TURN, HALF_TURN));
        let slant = random.uniform(-SLANT, SLANT);
        let stretch = random.uniform(1.0 - SLANT, 1.0 + SLANT);
        let rows = [[cos * stretch, sin * stretch], [slant * cos - sin, slant * sin + cos]];
        let mut offset = || random.uniform(-OFFSET, OFFSET);
        Self { center: [offset(), offset()], radius: random.uniform(RADIUS.0, RADIUS.1), rows }
    }

    fn to_figure(&self, place: Point) -> Point {
        let [x, y] = [0, 1].map(|axis| (place[axis] - self.center[axis]) / self.radius);
        self.rows.map(|[a, b]| a * x + b * y)
    }
}

/// Cosine and sine of an angle from the tangent of its half: no library's sine, so that it is the same everywhere.
fn turn(half: f32) -> Point {
    let square = half * half;
    [(1.0 - square) / (1.0 + square), 2.0 * half / (1.0 + square)]
}

/// A direction, by rejection from the square.
fn direction(random: &mut Stream) -> Point {
    loop {
        let point = [random.uniform(-1.0, 1.0), random.uniform(-1.0, 1.0)];
        let length = length(point);
        if (0.1..=1.0).contains(&length) {
            return point.map(|side| side / length);
        }
    }
}

/// Two colors, blended along a direction or alternating in stripes.
struct Texture {
    colors: [Color; 2],
    direction: Point,
    /// Pixels of one stripe; 0 for a blend across the picture.
    stripe: f32,
}

impl Texture {
    fn new(random: &mut Stream) -> Self {
        let first = color(random);
        // The second color is a relative of the first: a texture, not a figure.
        let second = first
            .map(|level| (level + random.uniform(-TEXTURE_CONTRAST, TEXTURE_CONTRAST)).clamp(0.0, 255.0));
        let stripe = if random.chance(STRIPES_CHANCE) { random.uniform(1.5, 4.0) } else { 0.0 };
        Self { colors: [first, second], direction: direction(random), stripe }
    }

    fn color(&self, place: Point) -> Color {
        let along = place[0] * self.direction[0] + place[1] * self.direction[1];
        let share = if self.stripe > 0.0 {
            let phase = (along / self.stripe).rem_euclid(2.0);
            (2.0 * (1.0 - (phase - 1.0).abs()) - 0.5).clamp(0.0, 1.0)
        } else {
            (along / 32.0 + 0.5).clamp(0.0, 1.0)
        };
        mix(self.colors[0], self.colors[1], share)
    }

    fn mean(&self) -> Color {
        mix(self.colors[0], self.colors[1], 0.5)
    }

    /// Whether the two can be told apart in gray too.
    fn differs_from(&self, other: &Self) -> bool {
        (gray(self.mean()) - gray(other.mean())).abs() >= LEAST_CONTRAST
    }

    /// Plainly bright on dark ground, dark on bright: where chance did not find a color that differs.
    fn opposite(&self) -> Self {
        let level = if gray(self.mean()) < 128.0 { 230.0 } else { 25.0 };
        Self { colors: [[level; 3]; 2], ..*self }
    }
}

fn gray([red, green, blue]: Color) -> f32 {
    0.3 * red + 0.59 * green + 0.11 * blue
}

fn color(random: &mut Stream) -> Color {
    std::array::from_fn(|_| random.uniform(10.0, 245.0))
}

fn mix(from: Color, to: Color, share: f32) -> Color {
    std::array::from_fn(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

fn length([x, y]: Point) -> f32 {
    (x * x + y * y).sqrt()
}

fn disc(point: Point) -> f32 {
    0.9 - length(point)
}

fn ring(point: Point) -> f32 {
    0.24 - (length(point) - 0.7).abs()
}

fn square([x, y]: Point) -> f32 {
    0.78 - x.abs().max(y.abs())
}

fn triangle([x, y]: Point) -> f32 {
    0.5 - y.max(0.866 * x.abs() - 0.5 * y)
}

/// A five-pointed star, by folding the plane along its axes until one point is left.
fn star(point: Point) -> f32 {
    const FOLD: Point = [0.809_017, -0.587_785_25];
    let [mut x, mut y] = [point[0].abs(), point[1]];
    for normal in [FOLD, [-FOLD[0], FOLD[1]]] {
        let beyond = 2.0 * (x * normal[0] + y * normal[1]).max(0.0);
        (x, y) = (x - beyond * normal[0], y - beyond * normal[1]);
    }
    (x, y) = (x.abs(), y - 1.0);
    const EDGE: Point = [-0.45 * FOLD[1], 0.45 * FOLD[0] - 1.0];
    let along = ((x * EDGE[0] + y * EDGE[1]) / (EDGE[0] * EDGE[0] + EDGE[1] * EDGE[1])).clamp(0.0, 1.0);
    let distance = length([x - EDGE[0] * along, y - EDGE[1] * along]);
    if y * EDGE[0] - x * EDGE[1] < 0.0 { distance } else { -distance }
}

fn cross([x, y]: Point) -> f32 {
    let (x, y) = (x.abs(), y.abs());
    (0.28 - x).min(0.92 - y).max((0.92 - x).min(0.28 - y))
}

fn crescent([x, y]: Point) -> f32 {
    (0.92 - length([x, y])).min(length([x - 0.42, y]) - 0.68)
}

/// (5/4 y - sqrt|x|)^2 + x^2 <= 1, the point down.
fn heart([x, y]: Point) -> f32 {
    let (x, y) = (1.1 * x, 1.1 * (0.25 - y));
    let lobe = 1.25 * y - x.abs().sqrt();
    0.45 * (1.0 - (x * x + lobe * lobe).sqrt())
}

fn arrow([x, y]: Point) -> f32 {
    let y = y.abs();
    let shaft = (0.2 - y).min(x + 0.92).min(0.2 - x);
    let head = x.min(0.6 * (0.95 - x) - 0.8 * y);
    shaft.max(head)
}

fn bars([x, y]: Point) -> f32 {
    let across = x.abs();
    let bar = (0.17 - across).max(0.17 - (across - 0.66).abs());
    bar.min(0.78 - y.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(spec: &str) -> Result<Dataset> {
        make(spec, &OpenOptions { threads: 2, ..Default::default() })
    }

    #[test]
    fn the_set_is_balanced_and_of_the_size_asked_for() {
        let data = open("100/20").unwrap();
        assert_eq!((data.train.len(), data.test.len(), data.classes.len()), (100, 20, 10));
        assert_eq!(data.shape, PictureShape { channels: 3, height: 32, width: 32 });
        assert_eq!(data.train.class_counts(10), [10; 10]);
        assert_eq!(data.train.pixels.len(), 100 * 3072);
        assert!(data.baseline_by_default() && data.flips());
    }

    #[test]
    fn pictures_depend_on_their_number_alone() {
        let few = make("20/10", &OpenOptions { threads: 1, seed: 4, ..Default::default() }).unwrap();
        let many = make("60/10", &OpenOptions { threads: 3, seed: 5, ..Default::default() }).unwrap();
        assert_eq!(few.train.pixels[..], many.train.pixels[..20 * 3072]);
        assert_ne!(few.train.pixels[..10 * 3072], few.test.pixels[..]);
    }

    #[test]
    fn gray_and_other_sizes_show_the_same_scene() {
        let options = OpenOptions { image_size: Some(48), channels: Some(1), ..Default::default() };
        let data = make("10/10", &options).unwrap();
        assert_eq!(data.train.pixels.len(), 10 * 48 * 48);
    }

    /// The center of mass and area of each figure: all fill about the same frame, so that size tells no class.
    #[test]
    fn figures_lie_within_their_frame_and_cover_enough_of_it() {
        for (name, figure) in FIGURES {
            let grid =
                |n: i32| (-n..=n).flat_map(move |y| (-n..=n).map(move |x| [x, y].map(|at| at as f32 / 40.0)));
            let inside = grid(48).filter(|&point| figure(point) > 0.0);
            let area = inside.clone().count() as f32 / (81.0 * 81.0);
            assert!((0.2..=0.75).contains(&area), "{name} covers {area}");
            assert!(inside.clone().all(|point| length(point) < 1.15), "{name} leaves its frame");
        }
    }

    #[test]
    fn figures_stand_out_from_their_ground() {
        for index in 0..200 {
            let scene = Scene::new(&mut Stream::new(&[index]));
            assert!(scene.fill.differs_from(&scene.ground), "scene {index}");
        }
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        for argument in ["5", "a/b", "5/5", "100", "-1/50"] {
            assert!(open(argument).unwrap_err().to_string().contains("synth:TRAIN/TEST"), "{argument}");
        }
    }
}
