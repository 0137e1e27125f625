// A round in C++17: handles that close themselves, errors as exceptions, and a thread that stops the work.
#include <array>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "poet.h"

namespace {

struct Error : std::runtime_error {
    poet_status status;
    Error(poet_status status, const std::string &text) : std::runtime_error(text), status(status) {}
};

void check(poet_status status) {
    if (status != POET_STATUS_OK) {
        std::array<char, 300> text{};
        if (poet_last_error(text.data(), text.size()) != POET_STATUS_OK) text[0] = '\0';
        throw Error(status, std::string(poet_status_message(status)) + ": " + text.data());
    }
}

template <typename T, poet_status (*close)(T *)>
struct Close {
    void operator()(T *handle) const { (void)close(handle); }
};
template <typename T, poet_status (*close)(T *)>
using Handle = std::unique_ptr<T, Close<T, close>>;
using Worker = Handle<poet_worker, poet_worker_close>;
using Proof = Handle<poet_proof, poet_proof_close>;

const std::uint8_t *bytes(std::string_view text) {
    return reinterpret_cast<const std::uint8_t *>(text.data());
}

Worker open(std::string_view statement, const char *backend) {
    poet_worker_options options{};
    options.struct_size = sizeof options;
    options.statement = bytes(statement);
    options.statement_bytes = statement.size();
    options.backend = backend;
    poet_worker *worker = nullptr;
    check(poet_worker_open(&options, &worker));
    return Worker(worker);
}

int run() {
    const std::string_view statement = "a round in C++";
    try {
        open(statement, "abacus");
        throw std::logic_error("an unknown backend was accepted");
    } catch (const Error &error) {
        if (error.status != POET_STATUS_BACKEND) throw;
        std::cout << error.what() << '\n';
    }

    const Worker worker = open(statement, nullptr);
    std::uint64_t leaves = 0;
    std::thread watcher([&worker] {
        std::uint64_t seen = 0;
        while (seen < 5000) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
            if (poet_worker_leaves(worker.get(), &seen) != POET_STATUS_OK) return;
        }
        (void)poet_worker_stop(worker.get());
    });
    poet_advanced why{};
    const poet_status status = poet_worker_advance(worker.get(), UINT64_MAX, UINT64_MAX, &why);
    watcher.join();
    check(status);
    check(poet_worker_leaves(worker.get(), &leaves));
    std::cout << "stopped at " << leaves << " leaves\n";
    if (why != POET_ADVANCED_STOPPED) throw std::logic_error("it ended by itself");

    poet_proof *made = nullptr;
    check(poet_worker_prove(worker.get(), POET_T, 2, &made));
    const Proof proof(made);
    std::size_t length = 0;
    check(poet_proof_encode(proof.get(), nullptr, 0, &length));
    std::vector<std::uint8_t> encoded(length);
    check(poet_proof_encode(proof.get(), encoded.data(), encoded.size(), &length));

    // Two claims at once: the true one, and one of too many leaves.
    poet_claim claim{bytes(statement), statement.size(), leaves, encoded.data(), encoded.size()};
    std::array<poet_claim, 2> claims{claim, claim};
    claims[1].leaves++;
    std::array<poet_status, 2> results{};
    check(poet_verify_many(POET_WORK_FUNCTION_SHA256, POET_LABEL_DEPTH, POET_T, claims.data(),
                           sizeof(poet_claim), claims.size(), 2, results.data()));
    std::cout << "the claim: " << poet_status_message(results[0])
              << "; of one leaf more: " << poet_status_message(results[1]) << '\n';
    return results[0] == POET_STATUS_OK && results[1] == POET_STATUS_INVALID_PROOF ? 0 : 1;
}

}  // namespace

int main() {
    try {
        return run();
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
