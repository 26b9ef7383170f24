// Converts pinyin by libpinyin, the engine of ibus: a line of standard input to its first sentence and microseconds of the processor.
// Syllables are separated by apostrophes or not at all. Nothing is learned from what is converted.
#include <ctime>
#include <iostream>
#include <string>

#include <glib.h>
#include <pinyin.h>

int main(int argc, char **argv) {
    pinyin_context_t *context = pinyin_init(argv[1], argv[2]); // what it brings, and a folder for what it would learn
    if (context == nullptr) {
        std::cerr << "there is no data in " << argv[1] << '\n';
        return 1;
    }
    // What ibus sets: the bigrams are used with DYNAMIC_ADJUST alone.
    pinyin_set_options(context, IS_PINYIN | PINYIN_INCOMPLETE | DYNAMIC_ADJUST | USE_DIVIDED_TABLE | USE_RESPLIT_TABLE);
    pinyin_instance_t *instance = pinyin_alloc_instance(context);
    std::string line;
    while (std::getline(std::cin, line)) {
        const std::clock_t started = std::clock();
        pinyin_parse_more_full_pinyins(instance, line.c_str());
        char *sentence = nullptr;
        pinyin_guess_sentence(instance);
        pinyin_get_sentence(instance, 0, &sentence);
        const std::clock_t taken = std::clock() - started;
        std::cout << (sentence ? sentence : "") << '\t' << taken << '\n';
        g_free(sentence);
        pinyin_reset(instance);
    }
    pinyin_free_instance(instance);
    pinyin_fini(context);
}
