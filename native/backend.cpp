// A backend of ggml for the two operations that a processor spends its time on: products with quantised weights, and
// attention, which is most of it when texts are long. For both, a row's result depends on its own inputs only: not on
// how many rows a call has, nor on the number of threads.
//
// ggml's own kernels for Q4_1 and Q8_0 read and unpack a row of weights again for each row of activations, or each few.
// This one unpacks sixteen rows of weights once, and multiplies all activations with them, sixteen results at a time.
// A single row with Q8_0 is left to ggml, unless a row must have the same bits alone as beside others.
//
// ggml's own kernel for attention goes through a sequence's keys and values once for each query head, a pair of a query and a key
// at a time. This one takes the heads that share keys and values together, and sixteen (AVX-512) or eight (AVX2)
// pairs at once. It computes with 32-bit floats throughout.
//
// ggml gives a node to the first backend that takes it, so whatever is not taken here stays where it was: other types
// of weights and of cache, sinks, soft caps, ALiBi, other processors.
//
// Sources: M. N. Rabe and C. Staats, Self-attention does not need O(n^2) memory, arXiv 2112.05682 (sums relative to
// the largest score so far); src/ggml-backend-impl.h and src/ggml-blas/ggml-blas.cpp of ggml (what a backend is).

#include "attention.h"
#include "product.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"

#include <atomic>
#include <cstring>
#include <vector>

namespace {

constexpr const char * NAME = "Takeoff";

std::atomic<uint64_t> num_attended{0}, num_multiplied{0};  // calls that were computed here
std::atomic<bool> rows_alike{false};  // the same bits for a row alone as beside others, though alone it could be faster

struct State {
    takeoff::Kernel kernel;
    int n_threads = 1;
    std::vector<float> workspace = {};
    std::vector<char> product_workspace = {};
    const ggml_tensor * rounded = nullptr;  // the inputs that it holds, within a graph
};

float parameter(const ggml_tensor * node, int number) {
    float value;
    std::memcpy(&value, node->op_params + number, sizeof value);
    return value;
}

bool takes_attention(const ggml_tensor * node) {
    const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2], *mask = node->src[3];
    const bool is_plain = parameter(node, 1) == 0.0f && parameter(node, 2) == 0.0f && node->src[4] == nullptr;
    const bool has_types = q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16
        && (mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1));
    const bool has_rows = q->nb[0] == sizeof(float) && k->nb[0] == sizeof(ggml_fp16_t) && v->nb[0] == sizeof(ggml_fp16_t)
        && k->ne[0] % takeoff::WIDEST == 0 && v->ne[0] % takeoff::WIDEST == 0;
    const bool is_shared_evenly = k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3] && k->ne[3] == q->ne[3]
        && q->ne[2] % k->ne[2] == 0;
    return is_plain && has_types && has_rows && is_shared_evenly && takeoff::find_kernel().attend != nullptr;
}

bool takes_product(const ggml_tensor * node) {
    const ggml_tensor *weights = node->src[0], *inputs = node->src[1];
    const bool is_flat = weights->ne[2] == 1 && weights->ne[3] == 1 && inputs->ne[2] == 1 && inputs->ne[3] == 1;
    const bool has_types = takeoff::is_known(weights->type) && inputs->type == GGML_TYPE_F32;
    const bool has_rows = ggml_is_contiguous(weights) && inputs->nb[0] == sizeof(float)
        && weights->ne[0] % takeoff::BLOCK == 0 && weights->ne[1] % takeoff::TILE_ROWS == 0;
    return is_flat && has_types && has_rows && takeoff::find_multiplier().multiply != nullptr;
}

// --- a backend: computes graphs of nodes that it takes ---

const char * backend_name(ggml_backend_t) { return NAME; }

void free_backend(ggml_backend_t backend) {
    delete static_cast<State *>(backend->context);
    delete backend;
}

void attend(State & state, ggml_tensor * node) {
    const takeoff::Attention call(node);
    const size_t size = takeoff::workspace_size(call, state.kernel, state.n_threads);
    if (state.workspace.size() < size) state.workspace.resize(size);
    takeoff::compute(call, state.kernel, state.n_threads, state.workspace.data());
    ++num_attended;
}

// Nodes that follow each other often have the same inputs: those of gate and up, or of keys and values.
void multiply(State & state, ggml_tensor * node) {
    const takeoff::Product call(node);
    const size_t size = takeoff::workspace_size(call, state.n_threads);
    if (state.product_workspace.size() < size) {
        state.product_workspace.resize(size);
        state.rounded = nullptr;
    }
    const bool is_rounded = state.rounded == call.inputs;
    char * workspace = state.product_workspace.data();
    takeoff::compute(call, takeoff::find_multiplier(), state.n_threads, workspace, is_rounded, rows_alike);
    state.rounded = call.inputs;
    ++num_multiplied;
}

ggml_status compute_graph(ggml_backend_t backend, ggml_cgraph * graph) {
    State & state = *static_cast<State *>(backend->context);
    state.rounded = nullptr;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if (ggml_is_empty(node)) continue;  // such as the logits of a call that wants none
        if (node->op == GGML_OP_FLASH_ATTN_EXT) attend(state, node);
        if (node->op == GGML_OP_MUL_MAT) multiply(state, node);
    }
    return GGML_STATUS_SUCCESS;
}

void set_n_threads(ggml_backend_t backend, int n_threads) {
    static_cast<State *>(backend->context)->n_threads = n_threads;
}

// --- its device: the processor ---

const char * device_name(ggml_backend_dev_t) { return NAME; }

void device_memory(ggml_backend_dev_t, size_t * available, size_t * total) { *available = *total = 0; }

enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; }

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    *props = {};
    props->name = props->description = device_name(device);
    props->type = device_type(device);
}

ggml_backend_t make_backend(ggml_backend_dev_t device, const char * kernel_name) {
    const takeoff::Kernel kernel = takeoff::find_kernel(kernel_name);
    if (kernel_name != nullptr && kernel.attend == nullptr) return nullptr;  // without a name: it just takes nothing
    static ggml_guid guid = {0x8e, 0x0c, 0x5b, 0x3e, 0x61, 0x2d, 0x4f, 0x19, 0xa7, 0x44, 0xd2, 0x90, 0x1c, 0x6f, 0xe3, 0x58};
    ggml_backend_i calls = {};
    calls.get_name = backend_name;
    calls.free = free_backend;
    calls.graph_compute = compute_graph;
    return new ggml_backend{&guid, calls, device, new State{kernel}};
}

ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t) { return ggml_backend_cpu_buffer_type(); }

bool supports_buffer_type(ggml_backend_dev_t, ggml_backend_buffer_type_t type) { return ggml_backend_buft_is_host(type); }

bool supports_op(ggml_backend_dev_t, const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE: return true;
        case GGML_OP_FLASH_ATTN_EXT: return takes_attention(node);
        case GGML_OP_MUL_MAT: return takes_product(node);
        default: return false;
    }
}

// --- how ggml finds it ---

const char * registry_name(ggml_backend_reg_t) { return NAME; }

size_t num_devices(ggml_backend_reg_t) { return 1; }

ggml_backend_dev_t get_device(ggml_backend_reg_t registry, size_t) {
    static ggml_backend_device device = [registry] {
        ggml_backend_device made = {};
        made.iface.get_name = made.iface.get_description = device_name;
        made.iface.get_memory = device_memory;
        made.iface.get_type = device_type;
        made.iface.get_props = device_props;
        made.iface.init_backend = make_backend;
        made.iface.get_buffer_type = buffer_type;
        made.iface.supports_op = supports_op;
        made.iface.supports_buft = supports_buffer_type;
        made.reg = registry;
        return made;
    }();
    return &device;
}

uint64_t count_attended() { return num_attended; }

uint64_t count_multiplied() { return num_multiplied; }

void keep_rows_alike() { rows_alike = true; }

void * get_function(ggml_backend_reg_t, const char * wanted) {
    if (std::strcmp(wanted, "ggml_backend_set_n_threads") == 0) return reinterpret_cast<void *>(set_n_threads);
    if (std::strcmp(wanted, "takeoff_num_attended") == 0) return reinterpret_cast<void *>(count_attended);
    if (std::strcmp(wanted, "takeoff_num_multiplied") == 0) return reinterpret_cast<void *>(count_multiplied);
    if (std::strcmp(wanted, "takeoff_keep_rows_alike") == 0) return reinterpret_cast<void *>(keep_rows_alike);
    return nullptr;
}

ggml_backend_reg_t registry() {
    static ggml_backend_reg made = {GGML_BACKEND_API_VERSION, {registry_name, num_devices, get_device, get_function}, nullptr};
    return &made;
}

}  // namespace

GGML_BACKEND_DL_IMPL(registry)
