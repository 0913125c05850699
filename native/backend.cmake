# Builds the backend of this folder beside llama.cpp, with its compiler and against its headers: CMake reads this
# file at `project("ggml")` when CMAKE_PROJECT_ggml_INCLUDE names it, and does it when ggml's own targets are there.
#
# Only for x86-64, and where OpenMP is: its threads are then the ones of ggml's own kernels.

set(TAKEOFF_NATIVE ${CMAKE_CURRENT_LIST_DIR})

function(add_takeoff_backend)
    find_package(OpenMP COMPONENTS CXX)
    if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64" OR NOT OpenMP_CXX_FOUND OR MSVC)
        message(STATUS "Takeoff's kernels are not for this machine; ggml's own are used")
        return()
    endif()
    foreach(level avx512 avx2)
        add_library(takeoff-${level} OBJECT ${TAKEOFF_NATIVE}/attention_rows.cpp)
        target_compile_definitions(takeoff-${level} PRIVATE KERNEL=${level}_kernel)
    endforeach()
    target_compile_options(takeoff-avx512 PRIVATE -mavx512f -mfma -mf16c)
    target_compile_options(takeoff-avx2 PRIVATE -mavx2 -mfma -mf16c)
    add_library(takeoff-vnni OBJECT ${TAKEOFF_NATIVE}/product_rows.cpp)
    target_compile_options(takeoff-vnni PRIVATE -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mfma -mf16c)
    add_library(ggml-takeoff MODULE ${TAKEOFF_NATIVE}/backend.cpp ${TAKEOFF_NATIVE}/attention.cpp
        ${TAKEOFF_NATIVE}/product.cpp $<TARGET_OBJECTS:takeoff-avx512> $<TARGET_OBJECTS:takeoff-avx2>
        $<TARGET_OBJECTS:takeoff-vnni>)
    target_compile_definitions(ggml-takeoff PRIVATE GGML_BACKEND_DL GGML_BACKEND_BUILD GGML_BACKEND_SHARED)
    target_link_libraries(ggml-takeoff PRIVATE ggml-base OpenMP::OpenMP_CXX)
    foreach(target takeoff-avx512 takeoff-avx2 takeoff-vnni ggml-takeoff)
        target_compile_features(${target} PRIVATE cxx_std_17)
        target_compile_options(${target} PRIVATE -O3)
        target_include_directories(${target} PRIVATE ${TAKEOFF_NATIVE} include src)
        set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
    endforeach()
    set_target_properties(ggml-takeoff PROPERTIES INSTALL_RPATH "$ORIGIN" BUILD_WITH_INSTALL_RPATH ON)
    install(TARGETS ggml-takeoff LIBRARY DESTINATION ${SKBUILD_PLATLIB_DIR}/llama_cpp/lib)
endfunction()

cmake_language(DEFER CALL add_takeoff_backend)
