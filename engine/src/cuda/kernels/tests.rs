//! Every kernel against the processor's of the same meaning, in both formats, at odd sizes and at sizes that suit vectors.
