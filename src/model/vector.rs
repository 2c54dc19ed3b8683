//! Vectors: texts by what they say, and how near two of them are.

use serde_json::{Map, Value};

use crate::id::VectorId;

/// A vector as it is kept, with the text that it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    pub id: VectorId,
    pub collection: String,
    /// The owner's name of it, if it has one; unique in its collection.
    pub name: Option<String>,
    pub parts: Vec<f32>,
    pub text: Option<String>,
    pub metadata: Map<String, Value>,
}

/// Where two vectors point: 1 the same way, 0 unlike, -1 opposite. 0 for vectors of unlike lengths.
pub fn cosine(one: &[f32], other: &[f32]) -> f32 {
    if one.len() != other.len() {
        return 0.0;
    }
    let (mut dot, mut first, mut second) = (0.0_f32, 0.0_f32, 0.0_f32);
    for (left, right) in one.iter().zip(other) {
        dot += left * right;
        first += left * left;
        second += right * right;
    }
    let length = (first * second).sqrt();
    if length > 0.0 { dot / length } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearness_is_of_direction_only() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-6);
        assert!((cosine(&[1.0, 0.0], &[-3.0, 0.0]) + 1.0).abs() < 1e-6);
        assert!(cosine(&[1.0, 0.0], &[0.0, 1.0]).abs() < f32::EPSILON);
        assert!(cosine(&[1.0], &[1.0, 0.0]).abs() < f32::EPSILON, "unlike lengths are unlike");
        assert!(cosine(&[0.0], &[1.0]).abs() < f32::EPSILON, "nothing points nowhere");
    }
}
