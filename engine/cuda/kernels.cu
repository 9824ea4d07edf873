// Every kernel of the engine, compiled as one unit. What each computes, and the shapes it takes, is said in its file.
#include "common.cuh"

#include "activation.cuh"
#include "depthwise.cuh"
#include "elementwise.cuh"
#include "norm.cuh"
#include "optimizer.cuh"
#include "pooling.cuh"
